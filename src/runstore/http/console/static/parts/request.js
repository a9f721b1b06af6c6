// What a model was asked, exactly: system prompt, tools, parameters and messages of one call.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { href } from "../route.js";
import { line, plain } from "../text.js";
import { Blocks, Text } from "./blocks.js";
import { Json } from "./json.js";

const PAGE = 1_000; // requests of a list
const PAGES = 100; // lists that are read in search of one

/** The request of an `llm.request` event. `n`: its number, if it is known. */
async function read(runId, seq, n) {
  if (n) {
    const found = await get(`/runs/${runId}/requests/${n}`);
    if (found.seq === seq) return found;
  }
  for (let after = null, pages = 0; pages < PAGES; pages += 1) {
    const page = await get(`/runs/${runId}/requests`, { after, limit: PAGE });
    const found = page.data.find((each) => each.seq === seq);
    if (found) return get(`/runs/${runId}/requests/${found.n}`);
    if (page.next === null) break;
    after = page.next;
  }
  throw new Error("the request was not found");
}

function Part({ label, note, children }) {
  return html`<details class="request-part"><summary>${label} ${note && html`<span class="dim">${note}</span>`}</summary>${children}</details>`;
}

function Source({ source, runId }) {
  if (!source) return null;
  if (source.left_out) return html`<span class="failed">${plain(source.left_out)}</span>`;
  if (!source.seq) return null;
  const run = source.run_id ?? runId;
  return html`<a href=${href(`runs/${run}`, { tab: "events", from: source.seq })}>${source.run_id ? "earlier run, " : ""}event ${source.seq}</a>`;
}

export function Request({ event, n, data }) {
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => void read(data.runId, event.seq, n).then(setFound, setError), [event.seq]);
  if (error) return html`<p class="dim">${plain(error.message)}</p>`;
  if (!found) return html`<p class="dim" aria-busy="true">Loading…</p>`;
  const { model, provider, system, tools, parameters, messages, sources = [], output_schema: schema, tool_choice: choice } = found;
  return html`<div class="request">
    <p><strong>${line(model ?? "")}</strong> <span class="dim">${line(provider ?? "")}</span></p>
    ${system && html`<${Part} label="System prompt">${typeof system === "string" ? html`<${Text} text=${system} />` : html`<${Blocks} value=${system} raw=${true} />`}<//>`}
    ${tools && html`<${Part} label="Tools" note=${line(tools.map((tool) => tool.name ?? tool.toolSpec?.name ?? "").join(", "), 80)}><${Json} value=${tools} /><//>`}
    ${parameters && html`<${Part} label="Parameters"><${Json} value=${parameters} /><//>`}
    ${schema && html`<${Part} label="Output schema"><${Json} value=${schema} /><//>`}
    ${choice && html`<${Part} label="Tool choice"><${Json} value=${choice} /><//>`}
    ${found.left_out && html`<p class="hint">${plain(found.left_out)}</p>`}
    ${(messages ?? []).map((message, index) => html`<div class="message" key=${index}>
      <p class="dim"><strong>${message ? plain(message.role) : "left out"}</strong> <${Source} source=${sources[index]} runId=${data.runId} /></p>
      ${message && html`<${Blocks} value=${message.content} raw=${true} />`}</div>`)}
  </div>`;
}
