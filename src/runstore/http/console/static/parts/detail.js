// Everything about one step: what went in beside what came out, usage, times, and its events.

import { html, useState } from "../vendor/htm-preact.js";
import { reasoningOf, textOf } from "../fold.js";
import { clock, duration, money, moment, number } from "../format.js";
import { costOf } from "../prices.js";
import { href } from "../route.js";
import { marked, plain } from "../text.js";
import { Answer } from "./answer.js";
import { Blocks, Reasoning, Text } from "./blocks.js";
import { Json } from "./json.js";
import { Request } from "./request.js";
import { Status } from "./status.js";

const COUNTS = [["input_tokens", "input"], ["cache_read_tokens", "from the cache"], ["cache_write_tokens", "into the cache"], ["output_tokens", "output"], ["reasoning_tokens", "reasoning"]];

export const Facts = ({ facts }) => html`<dl class="facts">${facts.filter(([, value]) => (value ?? false) !== false && value !== "")
  .map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** cut: the seq after which streamed text is not loaded, and the seq up to which. */
export const Cut = ({ cut }) => cut && html`<p class="hint">The text between the events ${cut.from} and ${cut.to} is not loaded.</p>`;

function Section({ title, children, raw, onRaw }) {
  return html`<section class="part"><header><h3>${title}</h3>${onRaw && html`<button type="button" class="more" aria-pressed=${raw}
    onClick=${() => onRaw(!raw)}>${raw ? "formatted" : "as written"}</button>`}</header>${children}</section>`;
}

function Model({ node, data, prices, day }) {
  const [raw, setRaw] = useState(false);
  const { usage } = node;
  const text = textOf(node);
  const cost = costOf(usage, prices, day);
  const spoke = usage?.duration_ms && usage.first_token_ms !== null ? usage.duration_ms - (usage.first_token_ms ?? 0) : null;
  const others = node.content?.filter((block) => block.text === undefined && !block.reasoningContent) ?? [];
  return html`
    <${Facts} facts=${[
      ["first token", usage?.first_token_ms === null || usage?.first_token_ms === undefined ? null : duration(usage.first_token_ms)],
      ...COUNTS.map(([name, label]) => [label, usage?.[name] ? number(usage[name]) : null]),
      ["speed", spoke > 0 && usage.output_tokens ? `${number(Math.round(usage.output_tokens / (spoke / 1_000)))} tokens/s` : null],
      ["cost", cost ? money(cost.cost, cost.currency) : null],
    ]} />
    ${node.status === "discarded" && html`<p class="hint">This text no longer counts: ${plain(node.discarded)}.</p>`}
    ${node.retries.map((retry) => html`<p class="hint">Try ${retry.attempt} failed (${plain(retry.code)}): ${plain(retry.message)}${retry.wait_s ? `; waited ${retry.wait_s} s` : ""}</p>`)}
    <div class="beside">
      ${(node.request || node.input !== null) && html`<${Section} title=${node.request ? "Request" : "New input"}>
        ${node.request ? html`<${Request} event=${node.request} n=${data.first === 0 ? node.requestNumber : null} data=${data} />` : html`<${Blocks} value=${node.input} raw=${true} />`}<//>`}
      <${Section} title="Answer" raw=${raw} onRaw=${text ? setRaw : null}>
        <${Reasoning} text=${reasoningOf(node)} open=${!text && !others.length} />
        ${text && html`<${Blocks} value=${text} raw=${raw} />`}
        ${others.length > 0 && html`<${Blocks} value=${others} />`}
        ${!text && !others.length && html`<p class="dim">${node.status === "running" ? "nothing yet" : "no text"}</p>`}<//>
    </div>`;
}

function Tool({ node }) {
  return html`
    ${node.once && html`<p class="hint">May be called once at most.</p>`}
    <div class="beside">
      <${Section} title="Input"><${Json} value=${node.input} /><//>
      <${Section} title=${node.status === "error" ? "Error" : "Output"}>
        ${node.output === undefined ? html`<p class="dim">${node.status === "running" ? "not yet" : "none"}</p>` : html`<${Blocks} value=${node.output} raw=${true} />`}<//>
    </div>
    ${node.progress.length > 0 && html`<${Section} title="Progress">
      ${node.progress.slice(-100).map((event) => html`<div class="progress" key=${event.seq}><time class="dim">${clock(event.at)}</time><${Blocks} value=${event.data.output} raw=${true} /></div>`)}<//>`}`;
}

function Agent({ node }) {
  return html`<${Facts} facts=${[["path", plain(node.path)], ["for the tool call", node.callId && plain(node.callId)], ["steps", number(node.children.length)]]} />`;
}

function Attempt({ node }) {
  const reasons = { claimed: "first attempt", adopted: "the worker before was lost", handed_over: "the worker before was stopped", input: "an answer came" };
  return html`<${Facts} facts=${[["why", reasons[node.reason] ?? plain(node.reason)], ["worker", node.worker && html`<code>${plain(node.worker)}</code>`]]} />`;
}

function Note({ node }) {
  const text = typeof node.data === "string" ? node.data : node.data?.text;
  return html`<${Facts} facts=${[["by", node.by && plain(node.by)]]} />
    ${typeof text === "string" ? html`<${Text} text=${text} />` : html`<${Json} value=${node.data} />`}`;
}

const BODIES = { model: Model, tool: Tool, agent: Agent, attempt: Attempt, question: Answer };

export function Detail({ node, cut, data, prices, day, onClose, now }) {
  const Body = BODIES[node.kind] ?? Note;
  const took = (node.end ?? now) - node.start;
  return html`<article class="detail" aria-label="Step">
    <header>
      <h2><span class=${`kind ${node.kind}`}>${node.kind === "model" ? "model call" : node.kind === "tool" ? "tool call" : node.kind}</span> ${marked(node.name)}</h2>
      <button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button>
    </header>
    <p class="meta dim">${node.status && html`<${Status} status=${node.status} />`}<span title=${moment(node.start)}>${clock(node.start)}</span>
      ${took > 0 && html`<span>${duration(took)}</span>`}
      <a href=${href(`runs/${data.runId}`, { tab: "events", from: node.seq })}>event${node.lastSeq > node.seq ? `s ${node.seq}–${node.lastSeq}` : ` ${node.seq}`}</a>
      <a href=${href(`runs/${data.runId}`, { at: node.lastSeq })}>the run then</a></p>
    ${node.kind === "model" && !node.content && html`<${Cut} cut=${cut} />`}
    <${Body} node=${node} data=${data} prices=${prices} day=${day} />
  </article>`;
}
