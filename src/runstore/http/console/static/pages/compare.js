// Two runs side by side: what was asked, what each did, and where they part.

import { html, useEffect, useMemo, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { Fold, STRUCTURE, textOf } from "../fold.js";
import { compact, duration, money, shortId, tookOf } from "../format.js";
import { title, useGet } from "../hooks.js";
import { aligned, wordsOf } from "../diff.js";
import { Loading, Problem } from "../parts/problem.js";
import { Status } from "../parts/status.js";
import { entriesOf } from "../parts/transcript.js";
import { costOf } from "../prices.js";
import { go, href } from "../route.js";
import { textOf as inputText } from "../runs.js";
import { line, marked, plain } from "../text.js";

const PAGES = 5; // of 1,000 events of each run
const SHOWN = 3_000; // characters of an answer

async function readRun(runId, signal) {
  const record = await get(`/runs/${encodeURIComponent(runId)}`, {}, signal);
  const fold = new Fold(runId);
  let next = 0;
  for (let pages = 0; next !== null && pages < PAGES; pages += 1) {
    const page = await get(`/runs/${encodeURIComponent(runId)}/events`, { after: next, limit: 1_000, types: STRUCTURE }, signal);
    fold.addAll(page.data);
    next = page.next;
  }
  return { record, fold, steps: entriesOf(fold).filter((node) => node.kind === "model" || node.kind === "tool"), complete: next === null };
}

const answerOf = (node) => (node.kind === "model" ? textOf(node) || node.content?.map((block) => block.toolUse?.name).filter(Boolean).join(", ") || "" : JSON.stringify({ input: node.input, output: node.output }, null, 1));
const keyOf = (node) => `${node.parent?.path} ${node.kind} ${node.name}`;

function Side({ parts, side }) {
  return html`<div class="text">${parts.filter(([kind]) => kind === "same" || kind === side).map(([kind, text], index) => (kind === "same" ? html`<span key=${index}>${marked(text)}</span>` : html`<mark key=${index} class=${side}>${marked(text)}</mark>`))}</div>`;
}

function Texts({ a, b }) {
  const parts = useMemo(() => wordsOf((a ?? "").slice(0, SHOWN), (b ?? "").slice(0, SHOWN)), [a, b]);
  return html`<td>${a === null ? html`<span class="dim">–</span>` : html`<${Side} parts=${parts} side="left" />`}</td><td>${b === null ? html`<span class="dim">–</span>` : html`<${Side} parts=${parts} side="right" />`}</td>`;
}

function Row({ name, a, b, texts = false }) {
  const differs = JSON.stringify(a) !== JSON.stringify(b);
  return html`<tr class=${differs ? "differs" : ""}><th scope="row">${name}</th>${texts ? html`<${Texts} a=${a} b=${b} />` : html`<td>${a}</td><td>${b}</td>`}</tr>`;
}

function Comparison({ a, b, prices }) {
  const costs = [a, b].map(({ fold, record }) => [...fold.byKey.values()].map((node) => node.kind === "model" && costOf(node.usage, prices, record.created_at.slice(0, 10))).filter(Boolean));
  const cost = costs.map((each) => (each.length ? money(each.reduce((sum, one) => sum + one.cost, 0), each[0].currency) : "–"));
  const took = [a, b].map(({ record }) => duration(tookOf(record, Date.now())));
  const pairs = aligned(a.steps, b.steps, keyOf);
  return html`<div class="scrolls"><table class="compare"><thead><tr><th></th>${[a, b].map(({ record }) => html`<th key=${record.run_id}><a href=${href(`runs/${record.run_id}`)}>${line(inputText(record.input), 60) || "run"}</a> <code>${shortId(record.run_id)}</code></th>`)}</tr></thead><tbody>
    <tr class=${a.record.status === b.record.status ? "" : "differs"}><th scope="row">State</th>${[a, b].map(({ record }) => html`<td><${Status} status=${record.status} /></td>`)}</tr>
    <${Row} name="Agent" a=${plain(a.record.agent_name)} b=${plain(b.record.agent_name)} />
    <${Row} name="Duration" a=${took[0]} b=${took[1]} />
    <${Row} name="Tokens" a=${compact(a.record.usage.total_tokens ?? 0)} b=${compact(b.record.usage.total_tokens ?? 0)} />
    <${Row} name="Cost" a=${cost[0]} b=${cost[1]} />
    <${Row} name="Steps" a=${String(a.steps.length)} b=${String(b.steps.length)} />
    <${Row} name="Input" a=${inputText(a.record.input)} b=${inputText(b.record.input)} texts=${true} />
    ${pairs.map(([left, right], index) => html`<${Row} key=${index} name=${html`<span class=${`kind ${(left ?? right).kind}`}>${(left ?? right).kind}</span> ${line((left ?? right).name, 40)}`}
      a=${left ? answerOf(left) : null} b=${right ? answerOf(right) : null} texts=${true} />`)}
    <${Row} name="Result" a=${a.record.result?.text ?? a.record.error ?? ""} b=${b.record.result?.text ?? b.record.error ?? ""} texts=${true} />
  </tbody></table></div>${(!a.complete || !b.complete) && html`<p class="dim">Only the first steps of a long run are compared.</p>`}`;
}

export default function Compare({ params }) {
  title("Compare");
  const [a, b] = [params.get("a"), params.get("b")];
  const [runs, setRuns] = useState(null);
  const [error, setError] = useState(null);
  const { data: priced } = useGet("/prices");
  useEffect(() => {
    if (!a || !b) return undefined;
    const abort = new AbortController();
    setRuns(null);
    Promise.all([a, b].map((runId) => readRun(runId, abort.signal))).then(setRuns, (problem) => problem.name !== "AbortError" && setError(problem));
    return () => abort.abort();
  }, [a, b]);
  const submit = (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.currentTarget));
    go(href("compare", { a: fields.a.trim(), b: fields.b.trim() }));
  };
  return html`<section class="page">
    <header class="page-head"><h1>Compare two runs</h1><p class="totals dim">Differences are marked.</p></header>
    ${(!a || !b) && html`<form class="columns" onSubmit=${submit}>${["a", "b"].map((name) => html`<div class="field" key=${name}><label for=${name}>Run</label><input id=${name} name=${name} required value=${params.get(name) ?? ""} placeholder="id of a run" /></div>`)}<button type="submit" class="primary">Compare</button></form>`}
    ${error ? html`<${Problem} error=${error} />` : a && b && !runs ? html`<${Loading} />` : runs && html`<${Comparison} a=${runs[0]} b=${runs[1]} prices=${priced?.data ?? []} />`}
  </section>`;
}
