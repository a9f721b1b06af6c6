// All runs, live: filters and order in the URL, actions on several, and only the visible rows in the document.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { ago, compact, counted, duration, money, moment, number, shortId, tookOf } from "../format.js";
import { title, useGet, useNow, useSettled } from "../hooks.js";
import { useKeys } from "../keys.js";
import { complain, tell } from "../notes.js";
import { Confirm } from "../parts/dialog.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { isOpen, Status, STATUSES, wordOf } from "../parts/status.js";
import { Virtual } from "../parts/virtual.js";
import { go, href, setParams } from "../route.js";
import { begun, changed, changesOf, deleteRun, listRuns, retry, stop, toEach } from "../runs.js";
import { useSession } from "../session.js";
import { follow } from "../stream.js";
import { line, plain } from "../text.js";

const ROW_PX = 48;
const NARROW_ROW_PX = 68;
const REFRESH_MS = 1_500; // between two reads of the first page, while runs change
const TOTALS_MS = 30_000; // between two reads of the totals, which count all runs
const MOST_SELECTED = 1_000; // runs of one action
const WITHIN = { "1h": "last hour", "24h": "last day", "7d": "last 7 days", "30d": "last 30 days" };
const HOURS = { "1h": 1, "24h": 24, "7d": 168, "30d": 720 };
const SORTS = { "": "newest first", failed: "failures first", duration: "longest first", tokens: "most tokens first", cost: "highest cost first" };
const narrow = matchMedia("(max-width: 720px)");

function queryOf(params) {
  const within = HOURS[params.get("within")];
  return {
    text: params.get("q"), status: params.get("status"), agent: params.get("agent"), user_id: params.get("user"),
    session_id: params.get("session"), error_code: params.get("error"), sort: params.get("sort"),
    since: within ? new Date(Date.now() - within * 3_600_000).toISOString() : null,
  };
}

/** The rows of the list, `{rows, totals, more, error, loading, live, loadMore, refresh, patch}`. */
function useRuns(query, session) {
  const [state, setState] = useState({ rows: [], totals: null, next: null, error: null, loading: true });
  const [live, setLive] = useState("live");
  const reading = useRef(null);
  const paged = useRef(false); // older rows were asked for, and are kept
  const totalled = useRef(0);
  const latest = useRef(state);
  latest.current = state;
  const key = JSON.stringify(query);

  const read = async (after) => {
    if (reading.current && after) return;
    reading.current?.abort();
    const abort = (reading.current = new AbortController());
    const totals = Date.now() - totalled.current >= TOTALS_MS;
    paged.current ||= Boolean(after);
    try {
      const page = await listRuns(query, session, { after, totals, signal: abort.signal });
      if (totals) totalled.current = Date.now();
      setState((old) => ({
        rows: after ? joined(old.rows, page.data) : paged.current ? merged(page, old.rows, query.sort) : page.data,
        totals: totals ? page.totals : old.totals,
        next: after || !paged.current || !old.next || page.next === null ? page.next : nextOf(page, old),
        error: null, loading: false,
      }));
    } catch (error) {
      if (error.name !== "AbortError") setState((old) => ({ ...old, error, loading: false }));
    } finally {
      if (reading.current === abort) reading.current = null;
    }
  };
  const latestRead = useRef(read);
  latestRead.current = read;

  useEffect(() => {
    setState({ rows: [], totals: null, next: null, error: null, loading: true });
    totalled.current = 0;
    paged.current = false;
    latestRead.current();
    return () => reading.current?.abort();
  }, [key]);

  useEffect(() => {
    const abort = new AbortController();
    let timer = null;
    const refresh = () => {
      // A read under way goes to its end: with changes all the time on a slow server, none would otherwise.
      timer ??= setTimeout(() => { timer = null; if (reading.current) refresh(); else latestRead.current(); }, REFRESH_MS);
    };
    const plainList = !query.text && !query.status && !query.error_code && !query.sort;
    const onEvents = (events) => {
      setState((old) => ({ ...old, rows: applied(old.rows, events, query, plainList) }));
      refresh();
    };
    let lost = false;
    const onState = (state) => {
      if (state === "live" && lost) refresh();
      lost = state === "lost";
      setLive(state instanceof Error ? "lost" : state);
    };
    follow(changesOf(session).path, { query: changesOf(session).query, signal: abort.signal, onEvents, onState });
    return () => { abort.abort(); clearTimeout(timer); };
  }, [key]);

  return {
    ...state, live, more: state.next !== null, refresh: () => latestRead.current(),
    loadMore: () => latest.current.next !== null && latestRead.current(latest.current.next),
  };
}

function joined(rows, page) {
  const known = new Set(rows.map((run) => run.run_id));
  return [...rows, ...page.filter((run) => !known.has(run.run_id))];
}

/** The first page as it is now, and the rows that were loaded after it. */
function merged(page, rows, sort) {
  const last = page.data.at(-1);
  if (!last || page.next === null) return page.data;
  if (!sort) {
    return [...page.data, ...rows.filter((run) => run.run_id < last.run_id)];
  }
  const place = rows.findIndex((run) => run.run_id === last.run_id);
  const shown = new Set(page.data.map((run) => run.run_id));
  return [...page.data, ...(place < 0 ? [] : rows.slice(place + 1).filter((run) => !shown.has(run.run_id)))];
}

/** Where the list goes on after a read of its first page: after the loaded rows, if some were kept. */
function nextOf(page, old) {
  return old.rows.length > page.data.length ? old.next : page.next;
}

function applied(rows, events, query, plainList) {
  const places = new Map(rows.map((run, index) => [run.run_id, index]));
  const changedRows = [...rows];
  const added = [];
  for (const event of events) {
    const place = places.get(event.run_id);
    if (place !== undefined) changedRows[place] = changedRows[place] && changed(changedRows[place], event);
    else if (event.type === "lifecycle.queued" && plainList && fits(event.data, query)) {
      const newest = rows[0];
      if (!newest || event.run_id > newest.run_id) added.unshift(begun(event));
    } else {
      const index = added.findIndex((run) => run.run_id === event.run_id);
      if (index >= 0) added[index] = changed(added[index], event);
    }
  }
  return [...added.filter(Boolean), ...changedRows.filter(Boolean)];
}

const fits = (queued, query) =>
  (!query.agent || queued.agent === query.agent) &&
  (!query.user_id || queued.user_id === query.user_id) &&
  (!query.session_id || queued.session_id === query.session_id);

function Row({ run, index, now, cursor, chosen, onChoose, withUser }) {
  const label = line(run.title) || "no input";
  return html`<div class=${`row run-row ${cursor ? "cursor" : ""}`} role="row" aria-rowindex=${index + 1} aria-selected=${chosen}>
    <span role="cell" class="pick"><input type="checkbox" checked=${chosen} aria-label=${`Choose run ${label}`}
      onChange=${() => onChoose(run.run_id)} /></span>
    <span role="cell" class="state"><${Status} status=${run.status} stopping=${run.cancel_requested} /></span>
    <span role="cell" class="what">
      <a class="title" href=${href(`runs/${run.run_id}`)}>${label}</a>
      <span class="sub"><span>${plain(run.agent)}</span>${run.error ? html`<span class="failed">${line(run.error, 90)}</span>`
        : html`<code title=${run.run_id}>${shortId(run.run_id)}</code>`}</span>
    </span>
    ${withUser && html`<span role="cell" class="user dim">${plain(run.user_id)}</span>`}
    <span role="cell" class="num">${duration(tookOf(run, now))}</span>
    <span role="cell" class="num tokens">${run.tokens ? compact(run.tokens) : "–"}</span>
    <span role="cell" class="num cost">${money(run.cost, run.currency)}</span>
    <span role="cell" class="num when" title=${moment(run.created_at)}>${ago(run.created_at, now)}</span>
  </div>`;
}

function Filters({ params, session, agents }) {
  const [text, setText] = useState(params.get("q") ?? "");
  const settled = useSettled(text, 300);
  const asked = params.get("q") ?? "";
  useEffect(() => {
    if (asked !== settled.trim()) setParams({ q: settled.trim() });
  }, [settled]);
  useEffect(() => {
    if (asked !== settled.trim()) setText(asked); // a link or the history changed the URL
  }, [asked]);
  const choose = (name) => (event) => setParams({ [name]: event.currentTarget.value });
  const status = params.get("status") ?? "";
  return html`<div class="filters" role="search">
    <input id="search" type="search" placeholder="Search inputs, answers, tool calls   /" value=${text} aria-label="Search"
      maxlength="200" onInput=${(event) => setText(event.currentTarget.value)} />
    <div class="chips" role="group" aria-label="State">
      ${["", ...STATUSES].map((each) => html`<button key=${each} type="button" aria-pressed=${status === each}
        onClick=${() => setParams({ status: each })}>${each ? wordOf(each) : "all"}</button>`)}
    </div>
    <select aria-label="Agent" value=${params.get("agent") ?? ""} onChange=${choose("agent")}>
      <option value="">any agent</option>
      ${agents.map((name) => html`<option key=${name} value=${name}>${plain(name)}</option>`)}
    </select>
    <select aria-label="Time" value=${params.get("within") ?? ""} onChange=${choose("within")}>
      <option value="">any time</option>
      ${Object.entries(WITHIN).map(([value, label]) => html`<option key=${value} value=${value}>${label}</option>`)}
    </select>
    <select aria-label="Order" value=${params.get("sort") ?? ""} onChange=${choose("sort")}>
      ${Object.entries(SORTS).map(([value, label]) => html`<option key=${value} value=${value}>${label}</option>`)}
    </select>
    ${["user", "session", "error"].filter((name) => params.get(name)).map((name) => html`<button type="button" class="chosen" key=${name}
        aria-label=${`Remove the filter ${name}`} onClick=${() => setParams({ [name]: null })}>
      ${name}: ${plain(params.get(name))} ✕</button>`)}
  </div>`;
}

export default function Runs({ params }) {
  title("Runs");
  const session = useSession();
  const key = params.toString();
  const query = useMemo(() => queryOf(params), [key]);
  const { rows, totals, more, error, loading, live, loadMore, refresh } = useRuns(query, session);
  const { data: known } = useGet("/agents");
  const now = useNow();
  const [cursor, setCursor] = useState(-1);
  const [chosen, setChosen] = useState(new Set());
  const [asking, setAsking] = useState(false);
  const [small, setSmall] = useState(narrow.matches);
  useEffect(() => {
    const update = () => setSmall(narrow.matches);
    narrow.addEventListener("change", update);
    return () => narrow.removeEventListener("change", update);
  }, []);
  const move = (by) => () => setCursor((old) => Math.min(Math.max(old + by, 0), rows.length - 1));
  const choose = (runId) => setChosen((old) => {
    const found = new Set(old);
    if (!found.delete(runId) && found.size < MOST_SELECTED) found.add(runId);
    return found;
  });
  useKeys({
    "/": [() => document.getElementById("search")?.focus(), "search"],
    j: [move(1), "the next run"],
    k: [move(-1), "the run before"],
    Enter: [(event) => {
      if (event.target.closest("a, button")) event.target.click();
      else if (rows[cursor]) go(href(`runs/${rows[cursor].run_id}`));
    }, "open the run"],
    x: [() => rows[cursor] && choose(rows[cursor].run_id), "choose the run"],
    f: [() => setParams({ sort: params.get("sort") === "failed" ? null : "failed" }), "failures first"],
    Escape: [() => { setChosen(new Set()); document.activeElement?.blur(); }, "choose nothing"],
  });

  const picked = rows.filter((run) => chosen.has(run.run_id));
  const act = async (runs, verb, action) => {
    const { worked, error: problem } = await toEach(runs.map((run) => run.run_id), action);
    setChosen(new Set());
    if (worked) tell(`${verb} ${counted(worked, "run")}.`);
    if (problem) complain(problem);
    refresh();
  };
  const openOnes = picked.filter((run) => isOpen(run.status));
  const closedOnes = picked.filter((run) => !isOpen(run.status));
  const withUser = session.readsAll;
  const agents = [...new Set([...(known?.data ?? []).map((agent) => agent.name), ...(params.get("agent") ? [params.get("agent")] : [])])];
  const filtered = [...params.keys()].some((name) => name !== "sort");
  const header = html`<div class="row head run-row" role="row">
    <span role="columnheader" class="pick"><input type="checkbox" aria-label="Choose all loaded runs"
      checked=${rows.length > 0 && chosen.size >= Math.min(rows.length, MOST_SELECTED)}
      onChange=${(event) => setChosen(new Set(event.currentTarget.checked ? rows.slice(0, MOST_SELECTED).map((run) => run.run_id) : []))} /></span>
    <span role="columnheader">State</span><span role="columnheader">Run</span>
    ${withUser && html`<span role="columnheader" class="user">User</span>`}
    ${[["duration", "Duration", ""], ["tokens", "Tokens", "tokens"], ["cost", "Cost", "cost"], ["", "Created", "when"]].map(([sort, label, place]) => {
      const by = (params.get("sort") ?? "") === sort;
      return html`<span key=${label} role="columnheader" class=${`num ${place}`} aria-sort=${by ? "descending" : "none"}>
        <button type="button" class="sort" onClick=${() => setParams({ sort })}>${label}${by ? " ↓" : ""}</button></span>`;
    })}
  </div>`;

  return html`<section class=${`page fills ${withUser ? "with-user" : ""}`}>
    <header class="page-head">
      <h1>Runs</h1>
      <p class="totals dim">${totals ? html`${counted(totals.runs, "run")} · ${compact(totals.tokens)} tokens${
        totals.cost > 0 ? ` · ${money(totals.cost, rows.find((run) => run.currency)?.currency)}` : ""}` : ""}
        <span class=${`live ${live}`} title=${live === "lost" ? "The connection is lost; trying again" : "New runs appear by themselves"}>
          ${live === "lost" ? "connecting…" : "live"}</span></p>
      ${session.changes && html`<a class="button primary" href=${href("start")}>Start a run</a>`}
    </header>
    <${Filters} params=${params} session=${session} agents=${agents} />
    ${picked.length > 0 && html`<div class="bulk" role="toolbar" aria-label="Chosen runs">
      <span>${counted(picked.length, "run")} chosen</span>
      ${session.changes && html`
        <button type="button" disabled=${!openOnes.length} onClick=${() => act(openOnes, "Stopping", stop)}>Stop ${openOnes.length || ""}</button>
        <button type="button" disabled=${!closedOnes.length} onClick=${() => act(closedOnes, "Started", retry)}>Retry ${closedOnes.length || ""}</button>
        <button type="button" class="danger" disabled=${!closedOnes.length} onClick=${() => setAsking(true)}>Delete ${closedOnes.length || ""}</button>`}
      ${picked.length === 2 && html`<a class="button" href=${href("compare", { a: picked[0].run_id, b: picked[1].run_id })}>Compare</a>`}
      <button type="button" class="quiet" onClick=${() => setChosen(new Set())}>Cancel</button>
    </div>`}
    ${asking && html`<${Confirm} title="Delete runs" action=${`Delete ${counted(closedOnes.length, "run")}`}
      text="Deleted runs leave all lists. Their events stay in the database until they are purged."
      onYes=${() => act(closedOnes, "Deleted", deleteRun)} onClose=${() => setAsking(false)} />`}
    ${error && !rows.length ? html`<${Problem} error=${error} onRetry=${refresh} />`
      : loading && !rows.length ? html`<${Loading} />`
      : !rows.length ? html`<${Empty} title=${filtered ? "No run fits" : "No runs yet"}>
          <p>${filtered ? html`<a href=${href("runs")}>Show all runs</a>`
            : html`Start one here, or with <code>POST /agents/NAME/start</code>.`}</p><//>`
      : html`<${Virtual} role="table" label="Runs" count=${rows.length} height=${small ? NARROW_ROW_PX : ROW_PX} selected=${cursor} head=${header}
          onRange=${(first, last) => more && last > rows.length - 60 && loadMore()}
          row=${(index) => html`<${Row} key=${rows[index].run_id} run=${rows[index]} index=${index} now=${now} cursor=${index === cursor}
            chosen=${chosen.has(rows[index].run_id)} onChoose=${choose} withUser=${withUser} />`}
          tail=${html`<p class="tail dim">${more ? "Loading more…" : `${number(rows.length)} of ${number(rows.length)}`}</p>`} />`}
  </section>`;
}
