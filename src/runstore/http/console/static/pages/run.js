// One run: its steps, its text, its events, at any time; and what can be done with it.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { compact, duration, money, moment, shortId, tookOf } from "../format.js";
import { title, useGet, useNow, useSettled } from "../hooks.js";
import { keepHtml, keepLines, keepMarkdown } from "../keep.js";
import { useKeys } from "../keys.js";
import { attempt } from "../notes.js";
import { Confirm, Dialog } from "../parts/dialog.js";
import { Cut, Detail, Facts } from "../parts/detail.js";
import { Events } from "../parts/events.js";
import { Json } from "../parts/json.js";
import { Loading, Problem } from "../parts/problem.js";
import { TimeSlider } from "../parts/slider.js";
import { isOpen, Status } from "../parts/status.js";
import { Transcript } from "../parts/transcript.js";
import { Result } from "../parts/blocks.js";
import { Waterfall } from "../parts/waterfall.js";
import { Question } from "../parts/answer.js";
import { firstOf, rowsOf } from "../fold.js";
import { costOf } from "../prices.js";
import { go, href, setParams } from "../route.js";
import { RunData } from "../run-data.js";
import { deleteRun, fork, note, steer, stop, textOf } from "../runs.js";
import { useSession } from "../session.js";
import { line, plain } from "../text.js";

const TABS = { "": "Steps", transcript: "Transcript", events: "Events", record: "Record" };
const SETTLE_MS = 120; // after the last move of the slider
const NOTABLE_MS = 1_000; // a shorter wait for a place is not shown

function useRun(runId) {
  const [, draw] = useState(0);
  const data = useRef(null);
  data.current ??= new RunData(runId, draw);
  useEffect(() => {
    data.current.open();
    return () => data.current.close();
  }, []);
  return data.current;
}

/** What is shown, `{fold, error}`: the run as it is now, or at the time of the slider. Both null: not known yet. */
function useFoldAt(data, at) {
  const [past, setPast] = useState(null);
  const wanted = useSettled(at, SETTLE_MS);
  const reachable = data.record !== null && (data.next === null || wanted <= data.next || !data.loading);
  useEffect(() => {
    if (!wanted) setPast(null);
    if (!wanted || !reachable) return undefined;
    const abort = new AbortController();
    const found = (part) => !abort.signal.aborted && setPast({ fold: null, error: null, ...part });
    data.at(wanted, abort.signal).then((fold) => found({ fold }), (error) => found({ error }));
    return () => abort.abort();
  }, [wanted, reachable, data.first]);
  if (!at) return { fold: data.fold, error: null };
  return past ?? { fold: null, error: null }; // while the slider moves, the place before stays
}

function Actions({ record, session, onNote, onDelete, onFork, onStop }) {
  const keep = useRef(null);
  const open = isOpen(record.status);
  const kept = (action) => () => { keep.current.open = false; attempt(action); };
  return html`<div class="actions">
    ${session.changes && open && html`<button type="button" class="danger" disabled=${record.cancel_requested} onClick=${onStop}>${record.cancel_requested ? "Stopping…" : "Stop"}</button>`}
    ${session.changes && open && html`<button type="button" onClick=${onNote}>Note or message</button>`}
    ${session.changes && html`<a class="button" href=${href("start", { from: record.run_id })}>Run again…</a>`}
    ${session.changes && html`<button type="button" onClick=${onFork}>Fork…</button>`}
    <details class="menu-box" ref=${keep}><summary class="button">Keep</summary><div class="menu-list">
      <button type="button" onClick=${kept(() => keepLines(record.run_id))}>Events, as NDJSON</button>
      <button type="button" onClick=${kept(() => keepHtml(record))}>Transcript, as HTML</button>
      <button type="button" onClick=${kept(() => keepMarkdown(record))}>Transcript, as Markdown</button>
      ${session.changes && !open && !record.deleted && html`<button type="button" class="danger" onClick=${() => { keep.current.open = false; onDelete(); }}>Delete the run</button>`}
    </div></details>
  </div>`;
}

function Head({ data, record, fold, at, now, prices, session, ...actions }) {
  const status = at || isOpen(record.status) ? fold.status : record.status;
  const shown = at ? { started_at: record.started_at <= fold.lastAt ? record.started_at : null, completed_at: fold.lastAt } : record;
  const waited = Date.parse(shown.started_at ?? shown.completed_at ?? new Date(now).toISOString()) - Date.parse(record.created_at);
  const starter = record.started_by?.user_id;
  const tokens = at || isOpen(record.status) ? fold.usage.input_tokens + fold.usage.output_tokens : record.usage.total_tokens;
  const first = useMemo(() => firstTokenOf(fold), [fold, fold.version]);
  const cost = useMemo(() => costOfRun(fold, prices, record), [fold, fold.version, prices]);
  return html`<header class="run-head">
    <nav class="crumbs dim" aria-label="Place"><a href=${href("runs")}>Runs</a> / <code>${shortId(record.run_id)}</code>
      ${data.live === "live" && html`<span class="live">live</span>`}${data.live === "lost" && html`<span class="live lost">connecting…</span>`}</nav>
    <div class="run-title"><h1>${line(textOf(record.input), 160) || plain(record.agent_name)}</h1><${Actions} record=${record} session=${session} ...${actions} /></div>
    <${Facts} facts=${[
      ["state", html`<${Status} status=${status} stopping=${!at && record.cancel_requested} />`],
      ["agent", html`<a href=${href("runs", { agent: record.agent_name })}>${plain(record.agent_name)}</a>`],
      ["user", html`<a href=${href("runs", { user: record.user_id })}>${plain(record.user_id)}</a>`],
      ["session", record.session_id && html`<a href=${href("sessions", { user: record.user_id, session: record.session_id })}>${line(record.session_id, 40)}</a>`],
      ["workspace", record.workspace_id && line(record.workspace_id, 40)],
      ["started by", starter && starter !== record.user_id && plain(starter)],
      ["fork of", record.parent_run_id && html`<a href=${href(`runs/${record.parent_run_id}`)}>${shortId(record.parent_run_id)}</a> (<a href=${href("compare", { a: record.parent_run_id, b: record.run_id })}>compare</a>)`],
      ["created", moment(record.created_at)],
      ["queued for", waited >= NOTABLE_MS ? duration(waited) : null],
      ["first token", first && duration(first - Date.parse(record.started_at))],
      ["duration", shown.started_at && duration(tookOf(shown, now))],
      ["tokens", tokens ? compact(tokens) : null],
      ["cost", cost ? money(cost.cost, cost.currency) : null],
      ["attempts", !at && record.attempt > 1 ? record.attempt : null],
      ["stopped by", !at && record.stopped_by && plain(record.stopped_by.user_id)],
      ["reason", !at && record.reason && line(record.reason, 90)],
    ]} />
    ${record.error && !at && html`<p class="hint error"><strong>${plain(record.error_code)}</strong> ${plain(record.error)}</p>`}
    ${record.deleted && html`<p class="hint">This run is deleted. Only admins and auditors see it.</p>`}
  </header>`;
}

/** The time of the first text that is known, in ms; of an ended call by its usage. */
function firstTokenOf(fold) {
  for (const node of fold.byKey.values()) {
    const first = node.kind === "model" ? firstOf(node) : null;
    if (first) return first;
  }
  return null;
}

function costOfRun(fold, prices, record) {
  if (!prices.length) return null;
  let found = null;
  for (const node of fold.byKey.values()) {
    const cost = node.kind === "model" && costOf(node.usage, prices, record.created_at.slice(0, 10));
    if (cost) found = { cost: (found?.cost ?? 0) + cost.cost, currency: cost.currency };
  }
  return found;
}

function NoteDialog({ runId, onClose }) {
  const [toAgent, setToAgent] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("text").trim();
    if (text && await attempt(() => (toAgent ? steer : note)(runId, text), toAgent ? "Sent." : "Noted.")) onClose();
  };
  return html`<${Dialog} title="Add to the run" onClose=${onClose}><form class="stack-form" onSubmit=${submit}>
    <div class="chips" role="group" aria-label="Kind">
      <button type="button" aria-pressed=${!toAgent} onClick=${() => setToAgent(false)}>Note</button>
      <button type="button" aria-pressed=${toAgent} onClick=${() => setToAgent(true)}>Message to the agent</button></div>
    <label for="note">${toAgent ? "Message" : "Note"}</label><textarea id="note" name="text" required maxlength="20000" autofocus></textarea>
    <p class="dim">${toAgent ? "The agent gets it before its next model call." : html`An event of the run, <code>custom.note</code>, with your name. The agent does not see it.`}</p>
    <footer><button type="button" onClick=${onClose}>Cancel</button><button type="submit" class="primary">${toAgent ? "Send" : "Add"}</button></footer></form><//>`;
}

function ForkDialog({ runId, at, onClose }) {
  const submit = async (event) => {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("text").trim();
    await attempt(async () => go(href(`runs/${await fork(runId, at, text)}`)));
  };
  return html`<${Dialog} title="Fork the run" onClose=${onClose}><form class="stack-form" onSubmit=${submit}>
    <p>A new run begins with the conversation ${at ? `up to event ${at}, or to the message or tool result before it` : "of this one"}.</p>
    <label for="fork">Message (optional)</label><textarea id="fork" name="text" maxlength="20000" autofocus></textarea>
    <p class="dim">Without one, the model answers again. The time slider chooses an earlier place.</p>
    <footer><button type="button" onClick=${onClose}>Cancel</button><button type="submit" class="primary">Fork</button></footer></form><//>`;
}

function More({ data }) {
  if (data.next === null) return data.loading ? html`<p class="tail dim">Loading…</p>` : null;
  return html`<p class="tail">${data.loading ? html`<span class="dim">Loading the steps…</span>`
    : html`<button type="button" onClick=${() => data.more()}>Load more steps</button> <span class="dim">up to event ${data.fold.last} of ${data.head}</span>`}</p>`;
}

export default function RunPage({ runId, params }) {
  const session = useSession();
  const data = useRun(runId);
  const { data: priced } = useGet("/prices");
  const prices = priced?.data ?? [];
  const at = Number(params.get("at")) || null;
  const { fold, error: lost } = useFoldAt(data, at);
  const tab = params.get("tab") ?? "";
  const [closed, setClosed] = useState(new Set());
  const [follow, setFollow] = useState(false);
  const [asking, setAsking] = useState(null);
  const { record } = data;
  const open = record !== null && isOpen(record.status) && !at;
  const now = useNow(open ? 250 : 60_000);
  title(record ? `${line(textOf(record.input), 60) || record.agent_name}` : "Run");
  useEffect(() => { if (open) setFollow(true); }, [open]);

  const chosen = params.get("step");
  const select = (node) => setParams({ step: node?.key ?? null, tab: null, from: null });
  const rows = () => (fold ? rowsOf(fold.roots, closed) : []);
  const move = (by) => () => {
    const found = rows();
    const index = found.findIndex(({ node }) => node.key === chosen);
    const next = found[Math.min(Math.max(index + by, 0), found.length - 1)];
    if (next) select(next.node);
  };
  const toggle = (node) => setClosed((old) => {
    const found = new Set(old);
    if (!found.delete(node.key)) found.add(node.key);
    return found;
  });
  const fold1 = (wanted) => () => {
    const node = fold?.byKey.get(chosen);
    if (node && closed.has(node.key) === wanted) toggle(node);
  };
  const goTab = (name) => setParams({ tab: name || null, from: null });
  useKeys({
    j: [move(1), "the next step"], k: [move(-1), "the step before"],
    ArrowLeft: [fold1(false), "fold the step"], ArrowRight: [fold1(true), "unfold the step"],
    f: [() => setFollow((old) => !old), "follow the run"],
    t: [() => goTab(tab === "transcript" ? "" : "transcript"), "transcript or steps"],
    Escape: [() => setParams({ step: null, from: null }), "close the step"],
  });

  if (!record) return data.error ? html`<${Problem} error=${data.error} onRetry=${() => location.reload()} />` : html`<${Loading} />`;
  if (!fold) return lost ? html`<${Problem} error=${lost} onRetry=${() => location.reload()} />` : html`<${Loading} />`;
  const node = chosen ? fold.byKey.get(chosen) : null;
  const onAt = (seq) => setParams({ at: seq });
  const openRequests = at ? [] : [...fold.requests.values()].filter(() => isOpen(record.status));
  return html`<section class="page fills run-page">
    <${Head} data=${data} record=${record} fold=${fold} at=${at} now=${now} prices=${prices} session=${session}
      onNote=${() => setAsking("note")} onDelete=${() => setAsking("delete")} onFork=${() => setAsking("fork")}
      onStop=${() => attempt(() => stop(runId).then(() => data.reload()), "The run is asked to stop.")} />
    ${data.error && html`<p class="hint error">${plain(data.error.message)}</p>`}
    ${openRequests.map((event) => html`<section class="hint ask" key=${event.seq}><h2>The run waits for an answer</h2><${Question} runId=${runId} request=${event.data} /></section>`)}
    <div class="bar-line">
      <div class="tabs" role="tablist" aria-label="Views">${Object.entries(TABS).map(([name, label]) => html`<button key=${name} type="button" role="tab" aria-selected=${tab === name} onClick=${() => goTab(name)}>${label}</button>`)}</div>
      ${open && tab !== "record" && html`<button type="button" class="more" aria-pressed=${follow} onClick=${() => setFollow(!follow)}>${follow ? "● following" : "○ follow"}</button>`}
      <${TimeSlider} head=${Math.max(data.head, fold.last)} at=${at} time=${at ? fold.lastAt : null} onAt=${onAt} />
    </div>
    ${data.first > 0 && !at && html`<p class="hint">The steps before event ${data.first} are not loaded. <button type="button" class="more" onClick=${() => data.fromStart()}>Load from the beginning</button></p>`}
    ${at && fold.from > 0 && html`<p class="hint">Steps after event ${fold.from} and up to event ${at}.</p>`}
    ${tab === "" && !node && !at && (record.result ?? null) !== null && html`<${Result} result=${record.result} />`}
    ${tab === "" && html`<div class=${`split ${node ? "open" : ""}`}>
      <${Waterfall} fold=${fold} version=${fold.version} now=${at ? Date.parse(fold.lastAt ?? record.created_at) : now} closed=${closed} selected=${chosen}
        onToggle=${toggle} onSelect=${select} bottom=${follow && open && !chosen} tail=${html`<${More} data=${data} />`} />
      ${node && html`<${Detail} key=${node.key} node=${node} cut=${fold.cut} data=${data} prices=${prices} day=${record.created_at.slice(0, 10)} now=${now} onClose=${() => select(null)} />`}
    </div>`}
    ${tab === "transcript" && html`<${Transcript} fold=${fold} version=${fold.version} runId=${runId} result=${at ? null : record.result} follow=${follow && open} onFollow=${setFollow} onSelect=${select} tail=${html`<${Cut} cut=${fold.cut} /><${More} data=${data} />`} />`}
    ${tab === "events" && html`<${Events} runId=${runId} head=${at ?? Math.max(data.head, fold.last)} from=${Number(params.get("from")) || null} follow=${follow && open}
      onFrom=${(seq) => setParams({ from: seq })} />`}
    ${tab === "record" && html`<${Record} runId=${runId} at=${at} record=${record} />`}
    ${asking === "note" && html`<${NoteDialog} runId=${runId} onClose=${() => setAsking(null)} />`}
    ${asking === "fork" && html`<${ForkDialog} runId=${runId} at=${at} onClose=${() => setAsking(null)} />`}
    ${asking === "delete" && html`<${Confirm} title="Delete the run" action="Delete" text="A deleted run leaves all lists. Its events stay in the database until they are purged."
      onClose=${() => setAsking(null)} onYes=${async () => (await attempt(() => deleteRun(runId), "Deleted.")) && go(href("runs"))} />`}
  </section>`;
}

function Record({ runId, at, record }) {
  const { data, error } = useGet(`/runs/${runId}`, { at, include: "schema_warnings" });
  if (error) return html`<${Problem} error=${error} />`;
  return html`<div class="scroll-page"><${Json} value=${data ?? record} /></div>`;
}
