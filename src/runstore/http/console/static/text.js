// Text of models, tools and users, shown so that no character of it can hide, reorder or disguise other text.

import { html } from "./vendor/htm-preact.js";

// Control characters (ANSI sequences begin with one), marks that change the direction of text, and characters
// without width. Line breaks and tabs stay; joiners stay, since scripts and emojis need them.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

const name = (character) => {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code); // ␛ and its like
  if (code === 0x7f) return "␡";
  return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
};

const normal = (text) => String(text ?? "").replace(/\r\n?/g, "\n");

/** The text as a string without hidden characters, for titles, attributes and places of one line. */
export const plain = (text) => normal(text).replace(HIDDEN, (character) => `⟨${name(character)}⟩`);

/** One line of the text, cut. */
export function line(text, length = 200) {
  const found = plain(String(text ?? "").slice(0, length * 4)).replace(/\s+/g, " ").trim();
  return found.length > length ? `${found.slice(0, length - 1)}…` : found;
}

/** The text as children of an element, with its hidden characters as marks. */
export function marked(text) {
  const given = normal(text);
  if (given.search(HIDDEN) < 0) return given;
  const parts = [];
  let end = 0;
  for (const match of given.matchAll(HIDDEN)) {
    if (match.index > end) parts.push(given.slice(end, match.index));
    parts.push(html`<span class="mark" title="a hidden character">${name(match[0])}</span>`);
    end = match.index + match[0].length;
  }
  parts.push(given.slice(end));
  return parts;
}
