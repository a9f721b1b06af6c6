// Markdown as elements, never as HTML. What it does not know stays text, as does every tag in it.

import { html, useMemo } from "../vendor/htm-preact.js";
import { marked } from "../text.js";

const LONGEST = 200_000; // characters; a longer text is shown as it is
// Each alternative looks a bounded way ahead, so that no text takes longer than its length.
const INLINE = /(?<!`)(`{1,8})(?!`)([^`]|[^`][\s\S]{0,2000}?[^`])\1(?!`)|\*\*(?=\S)((?:(?!\*\*)[\s\S]){0,2000}?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*?[^\s*])\*(?![\w*])|\[([^[\]\n]{1,500})\]\(([^()\s]{1,2000})\)|(https?:\/\/[^\s<>"'`)\]]{3,2000})/g;

/** Only links to the web: no `javascript:`, `data:` or other scheme, and none to this server by its path. */
function safe(link) {
  try {
    const url = new URL(link);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

// The host stands beside the text, so that a link cannot pretend to lead elsewhere.
function Link({ to, children }) {
  const target = safe(to);
  if (!target) return html`<span>[${children}](${marked(to)})</span>`;
  return html`<a href=${target} target="_blank" rel="noopener noreferrer nofollow" title=${target}>${children}</a>`;
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > end) parts.push(marked(text.slice(end, match.index)));
    const [, , code, strong, em, label, link, address] = match;
    if (code !== undefined) parts.push(html`<code>${marked(code)}</code>`);
    else if (strong !== undefined) parts.push(html`<strong>${inline(strong)}</strong>`);
    else if (em !== undefined) parts.push(html`<em>${inline(em)}</em>`);
    else if (label !== undefined) {
      const target = safe(link);
      const host = target && !label.includes(new URL(target).host) ? html` <span class="dim">(${new URL(target).host})</span>` : null;
      parts.push(html`<${Link} to=${link}>${marked(label)}<//>${host}`);
    } else parts.push(html`<${Link} to=${address}>${marked(address)}<//>`);
    end = match.index + match[0].length;
  }
  if (end < text.length) parts.push(marked(text.slice(end)));
  return parts;
}

const LIST = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const ROW = /^\s*\|(.*)\|\s*$/;

function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const found = [];
  let index = 0;
  while (index < lines.length) {
    const line = lines[index];
    const fence = /^\s*(```+|~~~+)\s*(\S*)/.exec(line);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (fence) {
      const code = [];
      index += 1;
      while (index < lines.length && !lines[index].trim().startsWith(fence[1])) code.push(lines[index++]);
      index += 1;
      found.push(html`<pre><code>${marked(code.join("\n"))}</code></pre>`);
    } else if (heading) {
      found.push(html`<p class=${`md-head h${heading[1].length}`}>${inline(heading[2])}</p>`);
      index += 1;
    } else if (LIST.test(line)) {
      const items = [];
      const ordered = /^\d/.test(LIST.exec(line)[2]);
      while (index < lines.length && (LIST.test(lines[index]) || (/^\s+\S/.test(lines[index]) && items.length))) {
        const item = LIST.exec(lines[index]);
        if (item) items.push({ depth: Math.min(Math.floor(item[1].length / 2), 6), text: item[3] });
        else items.at(-1).text += ` ${lines[index].trim()}`;
        index += 1;
      }
      const entries = items.map((item) => html`<li class=${`depth-${item.depth}`}>${inline(item.text)}</li>`);
      found.push(ordered ? html`<ol>${entries}</ol>` : html`<ul>${entries}</ul>`);
    } else if (/^>\s?/.test(line)) {
      const quoted = [];
      while (index < lines.length && /^>\s?/.test(lines[index])) quoted.push(lines[index++].replace(/^>\s?/, ""));
      found.push(html`<blockquote>${inline(quoted.join("\n"))}</blockquote>`);
    } else if (ROW.test(line) && /^\s*\|[\s:|-]+\|\s*$/.test(lines[index + 1] ?? "")) {
      const cells = (row) => ROW.exec(row)[1].split("|").map((cell) => inline(cell.trim()));
      const head = cells(line);
      index += 2;
      const rows = [];
      while (index < lines.length && ROW.test(lines[index])) rows.push(cells(lines[index++]));
      found.push(html`<div class="scrolls"><table><thead><tr>${head.map((cell) => html`<th>${cell}</th>`)}</tr></thead>
        <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`);
    } else if (!line.trim()) index += 1;
    else {
      const words = [];
      while (index < lines.length && lines[index].trim() && !/^(\s*(```|~~~)|#{1,6}\s|>)/.test(lines[index]) && !LIST.test(lines[index])) words.push(lines[index++]);
      if (!words.length) words.push(lines[index++]);
      found.push(html`<p>${inline(words.join("\n"))}</p>`);
    }
  }
  return found;
}

export function Markdown({ text }) {
  return useMemo(() => (text.length > LONGEST ? html`<div class="prose text">${marked(text)}</div>` : html`<div class="prose">${blocks(text)}</div>`), [text]);
}
