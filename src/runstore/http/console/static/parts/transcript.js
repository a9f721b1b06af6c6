// A run as one reads it: what was asked, what the agents said and did, and how it ended.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { reasoningOf, textOf } from "../fold.js";
import { clock, counted, duration } from "../format.js";
import { marked, plain } from "../text.js";
import { Question } from "./answer.js";
import { Blocks, Reasoning, Result, Text } from "./blocks.js";
import { Json } from "./json.js";
import { Status } from "./status.js";

const SHOWN = 200; // entries at first
const NEAR_PX = 80; // from the end, within which the reader counts as being there

/** The nodes that are entries of a transcript, in the order in which they began. */
export function entriesOf(fold) {
  const found = [];
  const walk = (nodes) => {
    for (const node of nodes) {
      if (node.kind === "attempt") {
        if (node.attempt > 1) found.push(node);
      } else if (node.kind !== "agent") found.push(node);
      walk(node.children);
    }
  };
  walk(fold.roots);
  return found.sort((a, b) => a.seq - b.seq);
}

function Entry({ node, runId, onSelect }) {
  const who = node.parent?.path;
  if (node.kind === "model") {
    const text = textOf(node);
    const reasoning = reasoningOf(node);
    if (!text && !reasoning && node.status !== "running") return null;
    return html`<div class=${`entry said ${node.status}`}><header><span class="who">${plain(who ?? "")}</span>
        ${node.status !== "success" && html`<${Status} status=${node.status} />`}<time>${clock(node.start)}</time></header>
      <${Reasoning} text=${reasoning} open=${!text && node.status === "running"} />
      ${text && (node.status === "discarded" ? html`<del><${Text} text=${text} /></del>` : html`<${Blocks} value=${text} />`)}
      ${node.status === "running" && html`<span class="caret" aria-hidden="true"></span>`}</div>`;
  }
  if (node.kind === "tool") {
    return html`<details class=${`entry did ${node.status}`}><summary><span class="kind tool">tool</span> <strong>${marked(node.name)}</strong>
        ${node.status !== "success" && html`<${Status} status=${node.status} />`}
        <span class="dim">${node.end === null ? "" : duration(node.end - node.start)}</span></summary>
      <div class="beside"><section class="part"><header><h3>Input</h3></header><${Json} value=${node.input} /></section>
        <section class="part"><header><h3>Output</h3></header><${Blocks} value=${node.output} raw=${true} /></section></div>
      <p><button type="button" class="more" onClick=${() => onSelect(node)}>to the step</button></p></details>`;
  }
  if (node.kind === "question") {
    return html`<div class="entry asked"><header><span class="kind question">question</span><span class="who">${plain(who ?? "")}</span></header>
      <${Question} runId=${runId} request=${node.data}>${node.answer ? html`<p><strong>${node.answer.by ? plain(node.answer.by) : "by default"}:</strong></p><${Blocks} value=${node.answer.answer} raw=${true} />` : null}<//></div>`;
  }
  if (node.kind === "end" && node.status === "success") return null;
  if (node.kind === "note" || node.kind === "added") {
    const text = typeof node.data === "string" ? node.data : node.data?.text ?? node.data?.content;
    return html`<div class="entry noted"><header><span class="kind note">${node.kind === "added" ? "message" : plain(node.name)}</span><span class="who">${plain(node.by ?? "")}</span><time>${clock(node.start)}</time></header>
      <${Blocks} value=${text ?? node.data} raw=${true} /></div>`;
  }
  return html`<p class="entry mark-line dim">${marked(node.name)} · ${clock(node.start)}${node.data?.message ? html` · <span class="failed">${marked(node.data.message)}</span>` : ""}</p>`;
}

export function Transcript({ fold, version, runId, result, follow, onFollow, onSelect, tail }) {
  const box = useRef(null);
  const [shown, setShown] = useState(SHOWN);
  const entries = useMemo(() => entriesOf(fold), [fold, version]);
  const visible = follow ? entries.slice(-shown) : entries.slice(0, shown);
  useLayoutEffect(() => {
    if (follow) box.current.scrollTop = box.current.scrollHeight;
  }, [version, follow]);
  useEffect(() => {
    const element = box.current;
    let before = element.scrollTop;
    const scrolled = () => {
      const up = element.scrollTop < before - 2;
      before = element.scrollTop;
      if (up && element.scrollHeight - element.clientHeight - before > NEAR_PX) onFollow(false);
    };
    element.addEventListener("scroll", scrolled, { passive: true });
    return () => element.removeEventListener("scroll", scrolled);
  }, []);
  const hidden = entries.length - visible.length;
  const more = hidden > 0 && html`<p class="center"><button type="button" onClick=${() => setShown(shown + SHOWN)}>${counted(hidden, follow ? "earlier entry" : "later entry", follow ? "earlier entries" : "later entries")}</button></p>`;
  const input = fold.queued?.data.input;
  return html`<div class="transcript" ref=${box} tabindex="0" role="log" aria-label="Transcript" aria-live="off">
    <div class="column">
      ${input !== undefined && !(follow && hidden > 0) && html`<div class="entry input"><header><span class="who">${plain(fold.queued.data.user_id)}</span><time>${clock(fold.queued.at)}</time></header><${Blocks} value=${input} raw=${true} /></div>`}
      ${follow && more}
      ${visible.map((node) => html`<${Entry} key=${node.key} node=${node} runId=${runId} onSelect=${onSelect} />`)}
      ${!follow && more}
      ${(result ?? null) !== null && !hidden && !entries.some((node) => node.kind === "model") && html`<${Result} result=${result} title="Result" />`}
      ${tail}
    </div>
  </div>`;
}
