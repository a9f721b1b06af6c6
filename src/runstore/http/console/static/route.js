// Where the console is, and which page it shows. Every URL is relative to this module, so any prefix works.

import { useEffect, useState } from "./vendor/htm-preact.js";

export const CONSOLE = new URL("../../", import.meta.url);
export const API = new URL("../", CONSOLE);

const listeners = new Set();

/** The page and its parameters: `{path: "runs/ID", params: URLSearchParams}`. */
export function current() {
  const path = location.pathname.slice(CONSOLE.pathname.length);
  return { path: path.replace(/\/+$/, "") || "runs", params: new URLSearchParams(location.search) };
}

/** The URL of a page. Parameters that are null or empty are left out. */
export function href(path, params = {}) {
  const url = new URL(path.split("/").map(encodeURIComponent).join("/"), CONSOLE);
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url.href;
}

export function go(url, { replace = false } = {}) {
  if (url === location.href) return;
  history[replace ? "replaceState" : "pushState"](null, "", url);
  changed();
}

/** Change some parameters of the present page; null removes one. */
export function setParams(changes, { replace = true } = {}) {
  const { path, params } = current();
  const merged = { ...Object.fromEntries(params), ...changes };
  go(href(path, merged), { replace });
}

export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const update = () => setRoute(current());
    listeners.add(update);
    return () => listeners.delete(update);
  }, []);
  return route;
}

function changed() {
  for (const listener of [...listeners]) listener();
}

addEventListener("popstate", changed);

// A link to the console changes the page without loading it again.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (link.target || link.hasAttribute("download") || !link.href.startsWith(CONSOLE.href)) return;
  event.preventDefault();
  go(link.href);
});
