// What a model was asked, exactly: the parts of an `llm.request`, found by their references.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { line, plain } from "../text.js";
import { Blocks, Text } from "./blocks.js";
import { Json } from "./json.js";

const PAGES = 50; // pages of contexts that are read in search of one

/** The event of a reference: by its seq, or by the digest of an `llm.context`. */
async function resolve(reference, data) {
  if (typeof reference === "number") {
    const known = data.events.find((event) => event.seq === reference);
    if (known) return known;
    return (await get(`/runs/${data.runId}/events`, { after: reference - 1, limit: 1 })).data[0] ?? null;
  }
  for (let after = 0, pages = 0; after !== null && pages < PAGES && !data.contexts?.has(reference); pages += 1) {
    const page = await get(`/runs/${data.runId}/events`, { after, limit: 1_000, types: "llm.context" });
    data.contexts ??= new Map();
    for (const event of page.data) if (event.type === "llm.context") data.contexts.set(event.data.digest, event);
    after = page.next;
  }
  return data.contexts?.get(reference) ?? null;
}

function contentOf(event) {
  const { data, type } = event;
  if (type === "lifecycle.queued") return data.input;
  if (type === "llm.message") return data.message.content;
  if (type === "llm.input_replaced") return data.messages;
  return data.content ?? data;
}

function Part({ reference, data, label }) {
  const [open, setOpen] = useState(false);
  const [found, setFound] = useState(undefined);
  useEffect(() => {
    if (open && found === undefined) resolve(reference, data).then(setFound, () => setFound(null));
  }, [open]);
  const content = found && contentOf(found);
  return html`<details class="request-part" onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>${label} <span class="dim">${typeof reference === "number" ? `event ${reference}` : plain(String(reference).slice(0, 12))}</span></summary>
    ${found === undefined ? html`<p class="dim">Loading…</p>` : found === null ? html`<p class="dim">not found</p>`
      : typeof content === "string" ? html`<${Text} text=${content} />` : html`<${Blocks} value=${content} raw=${true} />`}
  </details>`;
}

export function Request({ event, data }) {
  const { model, parameters, params, system, tools, messages = [], ...rest } = event.data;
  const given = parameters ?? params;
  const known = new Set(["agent", "call_id", "call"]);
  const others = Object.fromEntries(Object.entries(rest).filter(([name]) => !known.has(name)));
  return html`<div class="request">
    <p><strong>${line(model ?? "model")}</strong>${rest.call ? html` <span class="dim">call ${rest.call}</span>` : null}</p>
    ${given && Object.keys(given).length > 0 && html`<${Json} value=${given} />`}
    ${system !== undefined && system !== null && html`<${Part} reference=${system} data=${data} label="System prompt" />`}
    ${tools !== undefined && tools !== null && html`<${Part} reference=${tools} data=${data} label="Tools" />`}
    ${messages.map((reference, index) => html`<${Part} key=${index} reference=${reference} data=${data} label=${`Message ${index + 1}`} />`)}
    ${Object.keys(others).length > 0 && html`<${Json} value=${others} />`}
  </div>`;
}
