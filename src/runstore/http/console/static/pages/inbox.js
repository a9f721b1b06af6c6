// Questions of runs that wait for a person.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { ago, counted } from "../format.js";
import { title, useEvery, useNow } from "../hooks.js";
import { Question } from "../parts/answer.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { href } from "../route.js";
import { textOf } from "../runs.js";
import { useSession } from "../session.js";
import { line, plain } from "../text.js";

const RUNS = 50; // waiting runs that are shown at once
const AGAIN_MS = 4_000;

/** No questions, if the run was deleted or purged in between. */
function leftOut(error) {
  if (error.status === 404 || error.status === 410) return { data: [] };
  throw error;
}

/** The waiting runs, for an approver those of the workspaces too, each with all of its open requests. */
async function readWaiting(session, signal) {
  const workspaces = session.roles.includes("approver") ? session.workspaces : [];
  const places = session.readsAll ? [{}] : [{ user_id: session.user_id }, ...workspaces.map((workspace_id) => ({ workspace_id }))];
  const pages = await Promise.all(places.map((place) => get("/runs", { status: "waiting", limit: RUNS, ...place }, signal)));
  const runs = new Map(pages.flatMap((page) => page.data).map((run) => [run.run_id, run]));
  const newest = [...runs.values()].sort((a, b) => (a.run_id < b.run_id ? 1 : -1));
  const asked = await Promise.all(newest.slice(0, RUNS).map(async (run) => {
    const inputs = await get(`/runs/${run.run_id}/inputs`, {}, signal).catch(leftOut);
    return { run, requests: inputs.data.filter((each) => each.status === "open") };
  }));
  return { data: asked.filter(({ requests }) => requests.length), more: runs.size > RUNS || pages.some((page) => page.next !== null) };
}

export default function Inbox() {
  title("Inbox");
  const session = useSession();
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  const now = useNow(10_000);
  const read = () => readWaiting(session).then((next) => { setFound(next); setError(null); }, setError);
  useEffect(() => void read(), []);
  useEvery(AGAIN_MS, read);
  if (error && !found) return html`<${Problem} error=${error} onRetry=${read} />`;
  if (!found) return html`<${Loading} />`;
  const count = found.data.reduce((sum, { requests }) => sum + requests.length, 0);
  return html`<section class="page narrow">
    <header class="page-head"><h1>Inbox</h1><p class="totals dim">${count ? counted(count, "question") : ""}</p></header>
    ${error && html`<${Problem} error=${error} onRetry=${read} />`}
    ${!count && !error && html`<${Empty} title="Nothing waits for you"><p class="dim">Runs that need an answer or an approval appear here.</p><//>`}
    ${found.data.flatMap(({ run, requests }) => requests.map((each) => html`<article class="card" key=${`${run.run_id} ${each.request_id}`}>
      <p class="dim"><a class="strong" href=${href(`runs/${run.run_id}`)}>${line(textOf(run.input), 80) || plain(run.agent_name)}</a> · ${plain(each.agent)} · ${plain(run.user_id)} · ${ago(each.asked_at, now)}</p>
      <${Question} runId=${run.run_id} request=${each} onDone=${read} /></article>`))}
    ${found.more && html`<p class="dim">More runs wait; these are the newest.</p>`}
  </section>`;
}
