// Sessions: a list, and each as the conversation that it is.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { ago, compact, counted, duration, moment, tookOf } from "../format.js";
import { title, useEvery, useGet, useNow } from "../hooks.js";
import { Blocks } from "../parts/blocks.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { isOpen, Status } from "../parts/status.js";
import { href, setParams } from "../route.js";
import { useSession } from "../session.js";
import { line, plain } from "../text.js";

const RUNS = 100; // of a session, newest first, that are shown at once
const AGAIN_MS = 3_000; // between two looks at a session that has an open run

function useSessions(user) {
  const [state, setState] = useState({ rows: [], next: null, error: null, loading: true });
  const read = (after) => get("/sessions", { user_id: user, after, limit: 200 }).then(
    (page) => setState((old) => ({ rows: after ? [...old.rows, ...page.data] : page.data, next: page.next, error: null, loading: false })),
    (error) => setState((old) => ({ ...old, error, loading: false })),
  );
  useEffect(() => {
    setState({ rows: [], next: null, error: null, loading: true });
    read(null);
  }, [user]);
  return { ...state, more: () => read(state.next), refresh: () => read(null) };
}

function List({ user, params }) {
  const session = useSession();
  const { rows, next, error, loading, more, refresh } = useSessions(user);
  const now = useNow(10_000);
  useEvery(10_000, () => rows.length <= 200 && refresh());
  const submit = (event) => {
    event.preventDefault();
    setParams({ user: new FormData(event.currentTarget).get("user").trim() }, { replace: false });
  };
  return html`<section class="page">
    <header class="page-head"><h1>Sessions</h1><p class="totals dim">of ${plain(user)}</p>
      ${session.readsAll && html`<form class="inline" onSubmit=${submit}><label for="user" class="dim">User</label><input id="user" name="user" value=${params.get("user") ?? ""} placeholder=${session.user_id} maxlength="255" /></form>`}</header>
    ${error ? html`<${Problem} error=${error} onRetry=${refresh} />` : loading ? html`<${Loading} />`
      : !rows.length ? html`<${Empty} title="No sessions"><p class="dim">A run belongs to a session if its start names one: <code>session_id</code>.</p><//>`
      : html`<div class="scrolls"><table class="list"><thead><tr><th>Session</th><th class="num">Runs</th><th>State</th><th class="num">Last</th></tr></thead><tbody>
        ${rows.map((row) => html`<tr key=${row.session_id}>
          <td><a class="strong" href=${href("sessions", { user: row.user_id, session: row.session_id })}>${line(row.title ?? "") || "no title"}</a><br /><code class="dim">${line(row.session_id, 60)}</code></td>
          <td class="num">${row.runs}</td>
          <td>${row.open ? html`<${Status} status="running" />` : ""} ${row.failed ? html`<span class="failed">${row.failed} failed</span>` : ""} ${row.stopped ? html`<span class="dim">${row.stopped} stopped</span>` : ""}</td>
          <td class="num" title=${moment(row.last_at)}>${ago(row.last_at, now)}</td></tr>`)}</tbody></table></div>
        ${next && html`<p class="center"><button type="button" onClick=${more}>More</button></p>`}`}
  </section>`;
}

/** What a run answered; a run that has none shows its state. */
function Turn({ run, now }) {
  const answer = run.result?.text ?? null;
  return html`<div class="turn">
    <div class="entry input"><header><span class="who">${plain(run.user_id)}</span><time title=${moment(run.created_at)}>${ago(run.created_at, now)}</time></header>
      ${run.truncated?.includes("input") ? html`<p class="dim">a large input; <a href=${href(`runs/${run.run_id}`)}>open the run</a></p>` : html`<${Blocks} value=${run.input} raw=${true} />`}</div>
    <div class="entry said"><header><span class="who">${plain(run.agent_name)}</span><${Status} status=${run.status} stopping=${run.cancel_requested} />
        <a href=${href(`runs/${run.run_id}`)}>open</a>
        <time>${run.started_at ? duration(tookOf(run, now)) : ""}${run.usage.total_tokens ? ` · ${compact(run.usage.total_tokens)} tokens` : ""}</time></header>
      ${answer ? html`<${Blocks} value=${answer} />` : run.error ? html`<p class="failed">${plain(run.error)}</p>` : run.truncated?.includes("result") ? html`<p class="dim">a large answer; <a href=${href(`runs/${run.run_id}`)}>open the run</a></p>` : null}
    </div></div>`;
}

function Conversation({ user, sessionId }) {
  const session = useSession();
  const query = { user_id: session.readsAll ? user : null, session_id: sessionId, limit: RUNS };
  const { data, error, reload } = useGet("/runs", query);
  const [shown, setShown] = useState(null);
  useEffect(() => { if (data) setShown(data); }, [data]);
  const now = useNow(10_000);
  useEvery(AGAIN_MS, () => shown?.data.some((run) => isOpen(run.status)) && reload());
  if (error) return html`<${Problem} error=${error} onRetry=${reload} />`;
  if (!shown) return html`<${Loading} />`;
  const runs = [...shown.data].reverse();
  return html`<section class="page">
    <nav class="crumbs dim" aria-label="Place"><a href=${href("sessions", { user: session.readsAll ? user : null })}>Sessions</a> / <code>${line(sessionId, 60)}</code></nav>
    <header class="page-head"><h1>${line(runs.length ? (typeof runs[0].input === "string" ? runs[0].input : sessionId) : sessionId, 120)}</h1>
      <p class="totals dim">${counted(runs.length, "run")} of ${plain(user)}</p>
      <a class="button" href=${href("runs", { session: sessionId, user: session.readsAll ? user : null })}>As a list</a>
      ${session.changes && user === session.user_id && html`<a class="button primary" href=${href("start", { session: sessionId, agent: runs.at(-1)?.agent_name })}>Go on</a>`}</header>
    <div class="column">${shown.next && html`<p class="center dim">Only the last ${RUNS} runs are shown.</p>`}
      ${runs.map((run) => html`<${Turn} key=${run.run_id} run=${run} now=${now} />`)}
      ${!runs.length && html`<${Empty} title="No runs in this session" />`}</div>
  </section>`;
}

export default function Sessions({ params }) {
  title("Sessions");
  const session = useSession();
  const user = (session.readsAll && params.get("user")) || session.user_id;
  const sessionId = params.get("session");
  if (sessionId) return html`<${Conversation} key=${`${user} ${sessionId}`} user=${user} sessionId=${sessionId} />`;
  return html`<${List} user=${user} params=${params} />`;
}
