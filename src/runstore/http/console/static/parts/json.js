// JSON that folds. Long lists and texts open in parts, so that a large value costs no more than what is shown.

import { html, useState } from "../vendor/htm-preact.js";
import { bytes, counted } from "../format.js";
import { marked, plain } from "../text.js";

const OPEN_DEPTH = 2; // levels that are open at first
const SMALL_DEPTH = 6; // levels that are open at first if they have few items
const SMALL_ITEMS = 3;
const SHOWN_ITEMS = 100; // of a list or an object, until more are asked for
const SHOWN_TEXT = 4_000; // characters of a text, likewise

function Text({ value }) {
  const [all, setAll] = useState(false);
  const cut = !all && value.length > SHOWN_TEXT;
  return html`<span class="json-text">"${marked(cut ? value.slice(0, SHOWN_TEXT) : value)}${cut ? "…" : '"'}</span>
    ${cut && html` <button type="button" class="more" onClick=${() => setAll(true)}>all ${bytes(value.length)}</button>`}`;
}

function Value({ value, depth }) {
  if (typeof value === "string") return html`<${Text} value=${value} />`;
  if (value === null || typeof value !== "object") return html`<span class="json-word">${String(value)}</span>`;
  return html`<${Nested} value=${value} depth=${depth} />`;
}

function Nested({ value, depth }) {
  const entries = Array.isArray(value) ? value.map((item, index) => [index, item]) : Object.entries(value);
  const [open, setOpen] = useState(depth < OPEN_DEPTH || (depth < SMALL_DEPTH && entries.length <= SMALL_ITEMS));
  const [shown, setShown] = useState(SHOWN_ITEMS);
  const [left, right] = Array.isArray(value) ? "[]" : "{}";
  if (!entries.length) return html`<span class="json-word">${left}${right}</span>`;
  const summary = Array.isArray(value) ? counted(entries.length, "item") : entries.slice(0, 4).map(([name]) => plain(name)).join(", ") + (entries.length > 4 ? ", …" : "");
  return html`<span class="json-nested">
    <button type="button" class="fold" aria-expanded=${open} onClick=${() => setOpen(!open)}>
      <span aria-hidden="true">${open ? "▾" : "▸"}</span> <span class="dim">${open ? left : `${left} ${summary} ${right}`}</span></button>
    ${open && html`<ul>${entries.slice(0, shown).map(([name, item]) => html`<li key=${name}>
        <span class="json-name">${Array.isArray(value) ? name : marked(name)}</span>: <${Value} value=${item} depth=${depth + 1} /></li>`)}
      ${entries.length > shown && html`<li><button type="button" class="more" onClick=${() => setShown(shown + 10 * SHOWN_ITEMS)}>
        ${counted(entries.length - shown, "more")}</button></li>`}</ul><span class="dim">${right}</span>`}
  </span>`;
}

export const Json = ({ value }) => html`<div class="json">${value === undefined ? html`<span class="dim">nothing</span>` : html`<${Value} value=${value} depth=${0} />`}</div>`;
