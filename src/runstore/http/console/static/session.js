// Who uses this tab: the answer of `GET /me`, for all parts of the page.

import { createContext, useContext } from "./vendor/htm-preact.js";

export const Session = createContext(null);

/** `{user_id, roles, workspaces, login, version}` with `readsAll`, `admin` and `changes`. */
export const useSession = () => useContext(Session);

export function sessionOf(me) {
  const admin = me.roles.includes("admin");
  const auditor = me.roles.includes("auditor");
  return { ...me, admin, readsAll: admin || auditor, changes: admin || !auditor };
}
