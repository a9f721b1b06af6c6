// A run as a file: NDJSON of all events, Markdown, or one HTML file that shows the transcript offline.

import { errorOf, request } from "./api.js";
import { Fold, reasoningOf, textOf } from "./fold.js";
import { duration, moment } from "./format.js";
import { entriesOf } from "./parts/transcript.js";

const STYLE = "body{font:15px/1.6 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
  + "pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace;background:light-dark(#f6f6f8,#1b1e24);padding:.7rem;border-radius:6px}"
  + "article{border-top:1px solid light-dark(#ddd,#333);padding:.6rem 0}header{color:light-dark(#666,#999);font-size:.85rem}"
  + "p.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext}img{max-width:100%}";
// The file runs nothing and loads nothing, whatever its text is.
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const IMAGE = /^(png|jpeg|gif|webp)$/;

const escaped = (text) => String(text ?? "").replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
const jsonOf = (value) => JSON.stringify(value, null, 2) ?? "";

/** Offer a blob as a file. */
export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function lines(runId) {
  const response = await request(`/runs/${runId}/events`, { headers: { Accept: "application/x-ndjson" }, cache: "no-store" });
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function folded(runId) {
  const text = await (await lines(runId)).text();
  const fold = new Fold(runId);
  for (const line of text.split("\n")) if (line) fold.add(JSON.parse(line));
  return fold;
}

export async function keepLines(runId) {
  save(`${runId}.ndjson`, await (await lines(runId)).blob());
}

/** `{heading, text, json, images}` of each part of the transcript. */
function partsOf(fold) {
  const parts = [];
  const queued = fold.queued;
  if (queued) parts.push({ heading: `Input of ${queued.data.user_id}`, ...contentOf(queued.data.input) });
  for (const node of entriesOf(fold)) {
    const who = node.parent?.path ?? "";
    if (node.kind === "model") {
      const reasoning = reasoningOf(node);
      if (reasoning) parts.push({ heading: `${who}, reasoning`, text: reasoning });
      if (textOf(node)) parts.push({ heading: node.status === "discarded" ? `${who} (discarded)` : who, text: textOf(node) });
    } else if (node.kind === "tool") {
      parts.push({ heading: `Tool ${node.name} of ${who}, ${node.status}${node.end ? `, ${duration(node.end - node.start)}` : ""}`, json: jsonOf({ input: node.input, output: node.output }) });
    } else if (node.kind === "question") {
      parts.push({ heading: `Question of ${who}`, text: node.data.prompt, json: jsonOf({ tool: node.data.tool, input: node.data.input, answer: node.answer?.answer, by: node.answer?.by }) });
    } else if (node.kind === "note" || node.kind === "added") {
      parts.push({ heading: `${node.name} ${node.by ? `of ${node.by}` : ""}`, ...contentOf(node.data?.text ?? node.data?.content ?? node.data) });
    } else {
      parts.push({ heading: `${node.name}, ${moment(node.start)}`, text: node.data?.message ?? "" });
    }
  }
  return parts;
}

function contentOf(value) {
  if (typeof value === "string") return { text: value };
  if (!Array.isArray(value)) return { json: jsonOf(value) };
  return {
    text: value.map((block) => block?.text ?? "").join("\n"),
    images: value.map((block) => block?.image).filter((image) => image && IMAGE.test(image.format) && /^[A-Za-z0-9+/=]*$/.test(image.source?.bytes ?? "-")),
  };
}

function titleOf(record) {
  return `${record.agent_name}, run ${record.run_id}`;
}

const factsOf = (record) => [
  `status: ${record.status}`, `user: ${record.user_id}`, record.session_id ? `session: ${record.session_id}` : "",
  `started: ${record.created_at}`, record.completed_at ? `ended: ${record.completed_at}` : "", record.usage.total_tokens ? `tokens: ${record.usage.total_tokens}` : "",
].filter(Boolean);

/** One file without a script, which shows the transcript in any browser, offline. */
export function htmlOf(record, fold) {
  const articles = partsOf(fold).map(({ heading, text, json, images = [] }) => `<article><header>${escaped(heading)}</header>`
    + (text ? `<p class="text">${escaped(text)}</p>` : "") + (json ? `<pre>${escaped(json)}</pre>` : "")
    + images.map((image) => `<img alt="" src="data:image/${image.format};base64,${image.source.bytes}">`).join("") + "</article>");
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${POLICY}">`
    + `<meta name="viewport" content="width=device-width"><title>${escaped(titleOf(record))}</title><style>${STYLE}</style></head><body>`
    + `<h1>${escaped(titleOf(record))}</h1><p>${factsOf(record).map(escaped).join("<br>")}</p>${articles.join("\n")}</body></html>\n`;
}

const fenced = (text, word = "") => {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((found) => found.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${word}\n${text}\n${fence}`;
};

export function markdownOf(record, fold) {
  const parts = partsOf(fold).map(({ heading, text, json }) => [`## ${heading.replace(/\s+/g, " ")}`, text ?? "", json ? fenced(json, "json") : ""].filter(Boolean).join("\n\n"));
  return `${[`# ${titleOf(record)}`, factsOf(record).map((fact) => `- ${fact}`).join("\n"), ...parts].join("\n\n")}\n`;
}

export async function keepHtml(record) {
  save(`${record.run_id}.html`, new Blob([htmlOf(record, await folded(record.run_id))], { type: "text/html" }));
}

export async function keepMarkdown(record) {
  save(`${record.run_id}.md`, new Blob([markdownOf(record, await folded(record.run_id))], { type: "text/markdown" }));
}
