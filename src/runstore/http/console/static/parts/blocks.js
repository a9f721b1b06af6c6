// Content blocks as strands and Bedrock have them: text, reasoning, images, documents, tool calls and results.

import { html, useState } from "../vendor/htm-preact.js";
import { bytes } from "../format.js";
import { line, marked, plain } from "../text.js";
import { Json } from "./json.js";
import { Markdown } from "./markdown.js";

// Formats that a browser shows and that hold no script. An SVG in an <img> runs none either.
const IMAGES = { png: "image/png", jpeg: "image/jpeg", jpg: "image/jpeg", gif: "image/gif", webp: "image/webp", svg: "image/svg+xml" };
const SHOWN_LINES = 4_000; // characters of plain text, until more is asked for
const LARGEST_IMAGE = 8 << 20; // characters of base64

/** Text as it is, cut if it is long. */
export function Text({ text }) {
  const [all, setAll] = useState(false);
  const cut = !all && text.length > SHOWN_LINES;
  return html`<div class="text">${marked(cut ? text.slice(0, SHOWN_LINES) : text)}${cut && html`…
    <button type="button" class="more" onClick=${() => setAll(true)}>show all ${bytes(text.length)}</button>`}</div>`;
}

/** Text as Markdown, or as it is. */
export function Prose({ text, raw = false }) {
  return raw ? html`<${Text} text=${text} />` : html`<${Markdown} text=${text} />`;
}

function Image({ image }) {
  const type = IMAGES[image.format];
  const data = image.source?.bytes;
  if (!type || typeof data !== "string" || data.length > LARGEST_IMAGE || !/^[A-Za-z0-9+/=\s]*$/.test(data)) return html`<${Json} value=${image} />`;
  return html`<img class="picture" alt=${`an image, ${image.format}, ${bytes(Math.round(data.length * 0.75))}`} src=${`data:${type};base64,${data}`} />`;
}

function Block({ block, raw }) {
  if (typeof block !== "object" || block === null) return html`<${Json} value=${block} />`;
  if (typeof block.text === "string") return html`<${Prose} text=${block.text} raw=${raw} />`;
  if (block.image) return html`<${Image} image=${block.image} />`;
  if (block.reasoningContent) return html`<${Reasoning} text=${block.reasoningContent.reasoningText?.text ?? ""} />`;
  if (block.toolUse) {
    return html`<div class="call"><p><span class="kind tool">tool</span> <strong>${plain(block.toolUse.name)}</strong></p><${Json} value=${block.toolUse.input} /></div>`;
  }
  if (block.toolResult) {
    const { content, status } = block.toolResult;
    return html`<div class="call"><p class=${status === "error" ? "failed" : "dim"}>result${status === "error" ? ", an error" : ""}</p>
      ${content ? html`<${Blocks} value=${content} raw=${true} />` : html`<p class="dim">as in the tool's step</p>`}</div>`;
  }
  if (block.document || block.video) {
    const found = block.document ?? block.video;
    return html`<p class="call"><span class="kind">${block.document ? "document" : "video"}</span> ${line(found.name ?? "")} ${plain(found.format ?? "")}</p>`;
  }
  if (block.json !== undefined) return html`<${Json} value=${block.json} />`;
  return html`<${Json} value=${block} />`;
}

export function Reasoning({ text, open = false }) {
  if (!text) return null;
  return html`<details class="reasoning" open=${open}><summary>Reasoning</summary><${Text} text=${text} /></details>`;
}

/** What a run answered: its text, or all of a result without one. */
export function Result({ result, title = "Answer" }) {
  return html`<details class="part answer-box" open><summary>${title}</summary><${Blocks} value=${result.text || result} raw=${title === "Result"} /></details>`;
}

const isBlocks = (value) => Array.isArray(value) && value.length > 0 && value.every((block) => block && typeof block === "object"
  && ["text", "image", "document", "video", "toolUse", "toolResult", "json", "reasoningContent"].some((name) => name in block));

/** An input, output or content: text as text, blocks as blocks, anything else as JSON. */
export function Blocks({ value, raw = false }) {
  if (typeof value === "string") return html`<${Prose} text=${value} raw=${raw} />`;
  if (isBlocks(value)) return html`<div class="blocks">${value.map((block, index) => html`<${Block} key=${index} block=${block} raw=${raw} />`)}</div>`;
  return html`<${Json} value=${value} />`;
}
