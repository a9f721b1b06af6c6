// Texts, content blocks of strands and Bedrock, and other values as JSON that folds.

import { bytes, counted, dim, html, line, number, useMore, useRoom, useState } from "../kit.js";
import { Markdown } from "./markdown.js";

const OPEN_DEPTH = 2; // levels that are open at first
const SMALL_DEPTH = 6; // levels that are open at first if they have few items
const SMALL_ITEMS = 3;
const SHOWN_ITEMS = 100; // of a list or an object, until more are asked for
const SHOWN_TEXT = 4_000; // characters of a text, likewise
const PIECE = 200; // characters that take the room of one element

function Cut({ text }) {
	const [all, setAll] = useState(false);
	const reserve = useRoom();
	const shown = all ? Infinity : PIECE * reserve(Math.ceil(Math.min(text.length, SHOWN_TEXT) / PIECE));
	return html`${text.slice(0, shown)}${shown < text.length && html`… <button class="more" onClick=${() => setAll(true)}>show all ${bytes(text.length)}</button>`}`;
}

function Value({ value, depth }) {
	if (typeof value === "string") return html`<span class="json-text">"<${Cut} text=${value} />"</span>`;
	if (value === null || typeof value !== "object") return html`<span class="json-word">${String(value)}</span>`;
	return html`<${Nested} value=${value} depth=${depth} />`;
}

function Nested({ value, depth }) {
	const entries = Object.entries(value);
	const reserve = useRoom();
	const first = Math.min(entries.length, SHOWN_ITEMS);
	const [shown, setShown] = useState(() => (depth < OPEN_DEPTH || (depth < SMALL_DEPTH && first <= SMALL_ITEMS) ? reserve(first) : 0));
	const isList = Array.isArray(value);
	const [left, right] = isList ? "[]" : "{}";
	if (!first) return html`<span class="json-word">${left}${right}</span>`;
	const names = entries.slice(0, 4).map(([name]) => line(name, 40)).join(", ");
	const summary = isList ? counted(entries.length, "item") : names + (entries.length > 4 ? ", …" : "");
	return html`<span class="json-nested">
		<button class="fold" aria-expanded=${shown > 0} onClick=${() => setShown(shown ? 0 : SHOWN_ITEMS)}>${dim(shown ? left : `${left} ${summary} ${right}`)}</button>
		${shown > 0 && html`<ul>${entries.slice(0, shown).map(([name, item]) => html`<li key=${name}>
				<span class="json-name">${name}</span>: <${Value} value=${item} depth=${depth + 1} /></li>`)}
			${entries.length > shown && html`<li><button class="more" onClick=${() => setShown(shown + 10 * SHOWN_ITEMS)}>${number(entries.length - shown)} more</button></li>`}</ul>${dim(right)}`}
	</span>`;
}

export const Json = ({ value }) => html`<div class="json">${value === undefined ? dim("nothing") : html`<${Value} value=${value} depth=${0} />`}</div>`;

// Formats that a browser shows and that hold no script. An SVG in an <img> runs none either.
const IMAGES = { png: "png", jpeg: "jpeg", jpg: "jpeg", gif: "gif", webp: "webp", svg: "svg+xml" };
const LARGEST_IMAGE = 8 << 20; // characters of base64

export const Text = ({ text }) => html`<div class="text"><${Cut} text=${text} /></div>`;

function Image({ image }) {
	const type = IMAGES[image.format];
	const data = image.source?.bytes;
	if (!type || typeof data !== "string" || data.length > LARGEST_IMAGE || !/^[A-Za-z0-9+/=\s]*$/.test(data)) return html`<${Json} value=${image} />`;
	return html`<img class="picture" alt=${`an image, ${image.format}, ${bytes(Math.round(data.length * 0.75))}`} src=${`data:image/${type};base64,${data}`} />`;
}

export const Call = ({ name, input }) => html`<div class="call"><p><span class="kind tool">tool</span> <strong>${name}</strong></p>
	${input !== undefined && html`<${Json} value=${input} />`}</div>`;

function Outcome({ result: { content, status } }) {
	const failed = status === "error";
	return html`<div class="call"><p class=${failed ? "failed" : "dim"}>result${failed ? ", an error" : ""}</p>
		${content ? html`<${Blocks} value=${content} raw />` : html`<p class="dim">as in the tool's step</p>`}</div>`;
}

const Attached = ({ kind, name, format }) => html`<p class="call"><span class="kind">${kind}</span> ${line(name)} ${format}</p>`;

export const Reasoning = ({ text, open = false }) => (text ? html`<details class="reasoning" open=${open}><summary>Reasoning</summary><${Text} text=${text} /></details>` : null);

const KINDS = {
	text: (text, raw) => html`<${Blocks} value=${text} raw=${raw} />`,
	image: (image) => html`<${Image} image=${image} />`,
	reasoningContent: (content) => html`<${Reasoning} text=${content.reasoningText?.text} />`,
	toolUse: ({ name, input }) => html`<${Call} name=${name} input=${input} />`,
	toolResult: (result) => html`<${Outcome} result=${result} />`,
	document: (found) => html`<${Attached} kind="document" ...${found} />`,
	video: (found) => html`<${Attached} kind="video" ...${found} />`,
	json: (value) => html`<${Json} value=${value} />`,
};
const kindOf = (block) => (block && typeof block === "object" ? Object.keys(KINDS).find((name) => block[name] != null) : undefined);

/** An input, output or content: text as Markdown, or as it is if `raw`; blocks as blocks; anything else as JSON. */
export function Blocks({ value, raw = false }) {
	if (typeof value === "string") return raw ? html`<${Text} text=${value} />` : html`<${Markdown} text=${value} />`;
	if (!Array.isArray(value) || !value.length || !value.every(kindOf)) return html`<${Json} value=${value} />`;
	return html`<${List} blocks=${value} raw=${raw} />`;
}

function List({ blocks, raw }) {
	const [some, more] = useMore(blocks);
	return html`<div class="blocks">${some.map((block) => KINDS[kindOf(block)](block[kindOf(block)], raw))}${more}</div>`;
}

export const Result = ({ result, title = "Answer" }) => html`<details class="part answer-box" open><summary>${title}</summary><${Blocks} value=${result.text || result} raw=${title === "Result"} /></details>`;
