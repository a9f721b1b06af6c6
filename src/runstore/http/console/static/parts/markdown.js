// Markdown as elements, never as HTML. What it does not know stays text, as does every tag in it.

import { html, useMemo, useRoom } from "../kit.js";

const LONGEST = 200_000; // characters; a longer text is shown as it is
// Each alternative looks a bounded way ahead, so that no text takes longer than its length.
const INLINE = /(?<!`)(`{1,8})(?!`)([^`]|[^`][\s\S]{0,2000}?[^`])\1(?!`)|\*\*(?=\S)((?:(?!\*\*)[\s\S]){0,2000}?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*?[^\s*])\*(?![\w*])|\[([^[\]\n]{1,500})\]\(([^()\s]{1,2000})\)|(https?:\/\/[^\s<>"'`)\]]{3,2000})/g;
const MOST = 2_000; // elements of a text
let left; // of them
const LIST = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const ROW = /^\s*\|(.*)\|\s*$/;
const RULER = /^\s*\|[\s:|-]+\|\s*$/; // below the head of a table
const QUOTE = /^>\s?/;
const FENCE = /^\s*(```+|~~~+)/;
const HEADING = /^(#{1,6})\s+(.*)$/;

/** Only links to the web: no `javascript:`, `data:` or other scheme, and none to this server by its path. */
function webUrl(link) {
	const url = URL.canParse(link) ? new URL(link) : null;
	return url && /^https?:$/.test(url.protocol) ? url : null;
}

// The host stands beside the text, so that a link cannot pretend to lead elsewhere.
function Link({ label, to }) {
	const url = webUrl(to);
	if (!url) return html`<span>[${label}](${to})</span>`;
	return html`<a href=${url.href} target="_blank" rel="noopener noreferrer nofollow" title=${url.href}>${label}</a>
		${!label.includes(url.host) && html` <span class="dim">(${url.host})</span>`}`;
}

function inline(text) {
	if ((left -= 1) < 0) return text;
	const parts = [];
	let end = 0;
	for (const { 0: whole, 2: code, 3: strong, 4: em, 5: label, 6: link, 7: address, index } of text.matchAll(INLINE)) {
		if ((left -= 1) < 0) break;
		parts.push(text.slice(end, index));
		if (code !== undefined) parts.push(html`<code>${code}</code>`);
		else if (strong !== undefined) parts.push(html`<strong>${inline(strong)}</strong>`);
		else if (em !== undefined) parts.push(html`<em>${inline(em)}</em>`);
		else parts.push(html`<${Link} label=${label ?? address} to=${link ?? address} />`);
		end = index + whole.length;
	}
	return [...parts, text.slice(end)];
}

// Below, lines are in reverse order: taking one from the end costs nothing.

function take(lines, fits, most = Infinity) {
	const found = [];
	while (lines.length && found.length < most && fits(lines.at(-1))) found.push(lines.pop());
	return found;
}


function list(lines) {
	const ordered = /^\s*\d/.test(lines.at(-1));
	const items = [];
	for (const line of take(lines, (each) => LIST.test(each) || /^\s+\S/.test(each), left)) {
		const [, indent, , text] = LIST.exec(line) ?? [];
		if (text === undefined) items.at(-1).text += ` ${line.trim()}`;
		else items.push({ depth: Math.min(Math.floor(indent.length / 2), 6), text });
	}
	const entries = items.map(({ depth, text }) => html`<li class=${`depth-${depth}`}>${inline(text)}</li>`);
	return ordered ? html`<ol>${entries}</ol>` : html`<ul>${entries}</ul>`;
}

const cellsOf = (row) => ROW.exec(row)[1].split("|");

/** width: cells of a row; further ones are left out, as in GitHub's Markdown. */
function table(lines, width) {
	const [head, , ...rows] = take(lines, (line) => ROW.test(line), left / width).map((row) => cellsOf(row).slice(0, width).map((cell) => inline(cell.trim())));
	return html`<div class="scrolls" tabindex="0"><table><thead><tr>${head.map((cell) => html`<th>${cell}</th>`)}</tr></thead>
		<tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`;
}

function fenced(lines) {
	const fence = FENCE.exec(lines.pop())[1];
	const code = take(lines, (line) => !line.trim().startsWith(fence));
	lines.pop();
	return html`<pre><code>${code.join("\n")}</code></pre>`;
}

function block(lines) {
	const line = lines.at(-1);
	const [, level, heading] = HEADING.exec(line) ?? [];
	if (FENCE.test(line)) return fenced(lines);
	if (LIST.test(line)) return list(lines);
	if (QUOTE.test(line)) return html`<blockquote>${inline(take(lines, (each) => QUOTE.test(each)).map((each) => each.replace(QUOTE, "")).join("\n"))}</blockquote>`;
	const width = ROW.test(line) && RULER.test(lines.at(-2) ?? "") ? cellsOf(line).length : 0;
	if (width && width < left) return table(lines, width);
	lines.pop();
	if (level) return html`<p class=${`md-head h${level.length}`}>${inline(heading)}</p>`;
	const rest = take(lines, (each) => each.trim() && ![FENCE, LIST, QUOTE, HEADING].some((other) => other.test(each)));
	return html`<p>${inline([line, ...rest].join("\n"))}</p>`;
}

/** At most so many elements, and then the rest as it is. */
function blocks(text, most) {
	left = most;
	const lines = text.replace(/\r\n?/g, "\n").split("\n").reverse();
	const found = [];
	while (take(lines, (line) => !line.trim()) && lines.length && left > 0) found.push(block(lines));
	return lines.length ? [...found, html`<p>${lines.reverse().join("\n")}</p>`] : found;
}

export function Markdown({ text }) {
	const reserve = useRoom();
	return useMemo(() => {
		const most = reserve(text.length > LONGEST ? 0 : MOST);
		const prose = blocks(text, most);
		reserve(most - Math.max(left, 0));
		return html`<div class="prose">${prose}</div>`;
	}, [text]);
}
