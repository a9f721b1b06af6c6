// Text of models, tools and users: none of its characters can hide, reorder or disguise other text.

import { html as tagged } from "./vendor/htm-preact.js";

// Control characters (ANSI sequences begin with one), marks that change the direction of text, and characters
// without width; a row of the same one counts as one. Line breaks and tabs stay; joiners stay, since scripts and emojis
// need them.
const HIDDEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}])\1*/gu;

const name = (character) => {
	const code = character.codePointAt(0);
	if (code < 0x20) return String.fromCodePoint(0x2400 + code); // ␛ and its like
	if (code === 0x7f) return "␡";
	return `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
};

/** The text of a run's input: itself, or that of its content blocks. */
export function inputText(input) {
	if (typeof input === "string") return input;
	if (Array.isArray(input)) return input.map((block) => block?.text ?? "").filter(Boolean).join(" ");
	return input == null ? "" : JSON.stringify(input);
}

/** The text with its hidden characters by their names, as ⟨U+202E⟩, or ⟨U+202E × 9⟩ for a row of them. */
export const plain = (text) => String(text ?? "").replace(/\r\n?/g, "\n").replace(HIDDEN, (row, one) => `⟨${name(one)}${row === one ? "" : ` × ${row.length / one.length}`}⟩`);

const shown = (value) => (typeof value === "string" ? plain(value) : Array.isArray(value) ? value.map(shown) : value);

/** htm's `html` for texts of anyone: what stands between tags is `plain`. A value after a `=` is an attribute's, and stays. */
export const html = (parts, ...values) => tagged(parts, ...values.map((value, index) => (parts[index].endsWith("=") ? value : shown(value))));

/** The text in one line, cut to a length. */
export function line(text, length = 200) {
	const found = plain(String(text ?? "").slice(0, length * 4)).replace(/\s+/g, " ").trim();
	return found.length > length ? `${found.slice(0, length - 1)}…` : found;
}

export const titleOf = ({ input, agent_name: agent }, length) => line(inputText(input), length) || plain(agent);
