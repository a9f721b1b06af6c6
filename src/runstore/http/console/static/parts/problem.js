// What a page shows instead of its data: an error, nothing yet, or nothing at all.

import { html } from "../vendor/htm-preact.js";
import { plain } from "../text.js";

export function Problem({ error, onRetry }) {
  const rebuilt = error.code === "projection_not_built";
  return html`<div class="empty" role="alert">
    <h2>${error.status === 403 ? "Not for you" : error.status === 404 ? "Not found" : "That did not work"}</h2>
    <p>${plain(error.message)}</p>
    ${rebuilt && html`<p class="dim">The server fills it in a moment after its first start.</p>`}
    ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

export const Loading = () => html`<div class="empty dim" aria-busy="true"><p class="loading">Loading…</p></div>`;

export const Empty = ({ title, children }) => html`<div class="empty"><h2>${title}</h2>${children}</div>`;
