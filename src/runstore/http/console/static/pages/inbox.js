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

/** The waiting runs, each with all of its open requests. */
async function readWaiting(session, signal) {
  const query = { status: "waiting", limit: RUNS, user_id: session.readsAll ? null : session.user_id };
  const page = await get("/runs", query, signal);
  const asked = await Promise.all(page.data.map(async (run) => {
    const inputs = await get(`/runs/${run.run_id}/inputs`, {}, signal).catch(() => ({ data: [] }));
    return { run, requests: inputs.data.filter((each) => each.status === "open") };
  }));
  return { data: asked.filter(({ requests }) => requests.length), more: page.next !== null };
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
    ${!count && html`<${Empty} title="Nothing waits for you"><p class="dim">Runs that need an answer or an approval appear here.</p><//>`}
    ${found.data.flatMap(({ run, requests }) => requests.map((each) => html`<article class="card" key=${`${run.run_id} ${each.request_id}`}>
      <p class="dim"><a class="strong" href=${href(`runs/${run.run_id}`)}>${line(textOf(run.input), 80) || plain(run.agent_name)}</a> · ${plain(each.agent)} · ${plain(run.user_id)} · ${ago(each.asked_at, now)}</p>
      <${Question} runId=${run.run_id} request=${each} onDone=${read} /></article>`))}
    ${found.more && html`<p class="dim">More runs wait; these are the newest.</p>`}
  </section>`;
}
