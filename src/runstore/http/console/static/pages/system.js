// The server itself: workers, queue, projections with their lag, writer and feed.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { post, request } from "../api.js";
import { ago, bytes, duration, moment, number } from "../format.js";
import { title, useEvery, useGet, useNow } from "../hooks.js";
import { samplesOf } from "../metrics.js";
import { attempt } from "../notes.js";
import { Loading, Problem } from "../parts/problem.js";
import { Status } from "../parts/status.js";
import { useSession } from "../session.js";
import { plain } from "../text.js";

const AGAIN_MS = 2_000;
const STATES = { running: "success", paused: "stopped", failed: "error", unbuilt: "queued", outdated: "queued", newer: "error", unknown: "stopped" };

/** The latest answer of a route, which is asked again and again. */
function usePolled(path) {
  const { data, error, reload } = useGet(path);
  const [last, setLast] = useState(null);
  useEffect(() => { if (data) setLast(data); }, [data]);
  useEvery(AGAIN_MS, reload);
  return { data: data ?? last, error, reload };
}

function useMetrics() {
  const [samples, setSamples] = useState(null);
  const read = () => request("/metrics", { headers: { Accept: "text/plain" } }).then(async (answer) => answer.ok && setSamples(samplesOf(await answer.text())), () => setSamples(null));
  useEffect(() => void read(), []);
  useEvery(AGAIN_MS, read);
  return samples;
}

function Workers() {
  const { data, error } = usePolled("/workers");
  const now = useNow(1_000);
  if (error) return html`<${Problem} error=${error} />`;
  if (!data) return html`<${Loading} />`;
  return html`<div class="scrolls"><table class="list"><thead><tr><th>Host</th><th>Worker</th><th class="num">Process</th><th class="num">Runs</th><th class="num">Capacity</th><th class="num">Since</th><th class="num">Lease</th></tr></thead><tbody>
    ${data.data.map((each) => html`<tr key=${each.worker_id}><td>${plain(each.host)}</td><td><code>${plain(each.worker_id.slice(0, 12))}</code></td><td class="num">${each.pid}</td><td class="num">${number(each.runs)}</td>
      <td class="num">${each.capacity ? number(each.capacity) : "records only"}</td><td class="num" title=${moment(each.started_at)}>${ago(each.started_at, now)}</td><td class="num">${each.heartbeat_at ? ago(each.heartbeat_at, now) : "a lock"}</td></tr>`)}
    ${!data.data.length && html`<tr><td colspan="7" class="dim">No worker: queued runs wait.</td></tr>`}</tbody></table></div>`;
}

function Projection({ each, admin, reload }) {
  const rebuild = () => attempt(() => post(`/projections/${encodeURIComponent(each.name)}/rebuild`).then(reload), `${each.name} is being rebuilt.`);
  return html`<tr><td class="strong">${plain(each.name)}</td><td><${Status} status=${STATES[each.state] ?? "queued"} word=${each.state} /></td>
    <td class="num">${each.live_version ?? "–"}</td><td class="num">${each.inline ? "inline" : each.position === null ? "–" : number(each.position)}</td>
    <td class=${`num ${each.lag_s > 60 ? "failed" : ""}`}>${each.inline ? "none" : each.lag_events ? `${number(each.lag_events)} · ${duration(each.lag_s * 1_000)}` : "none"}</td>
    <td>${each.rebuilt_to !== null ? html`<span class="dim">rebuilt up to ${number(each.rebuilt_to)}</span>` : ""}${each.waits ? html`<span class="dim">${plain(each.waits)}</span>` : ""}
      ${each.error ? html`<span class="failed">${plain(each.error.error)}. ${plain(each.error.remedy)}</span>` : ""}${!each.configured ? html`<span class="failed">its configuration has changed: rebuild it</span>` : ""}${each.skipped ? ` ${number(each.skipped)} skipped` : ""}</td>
    <td class="num">${admin && html`<button type="button" disabled=${each.rebuilt_to !== null} onClick=${rebuild}>Rebuild</button>`}</td></tr>`;
}

function Projections() {
  const session = useSession();
  const { data, error, reload } = usePolled("/projections");
  if (error) return html`<${Problem} error=${error} />`;
  if (!data) return html`<${Loading} />`;
  return html`<div class="scrolls"><table class="list"><thead><tr><th>Name</th><th>State</th><th class="num">Version</th><th class="num">Checkpoint</th><th class="num">Lag</th><th>Notes</th><th></th></tr></thead><tbody>
    ${data.data.map((each) => html`<${Projection} key=${each.name} each=${each} admin=${session.admin} reload=${reload} />`)}</tbody></table></div>`;
}

const unit = ({ name, value }) => (name.endsWith("_bytes") ? bytes(value) : name.includes("_seconds") && !name.endsWith("_total") ? duration(value * 1_000) : number(value));
const shown = ({ name }) => name.startsWith("runstore_") && !/_(bucket|created|sum|count)$/.test(name);

function Figures({ samples }) {
  if (!samples) return html`<p class="dim">The metrics cannot be read now.</p>`;
  const [words] = [(name) => name.replace(/^runstore_/, "").replace(/_(total|seconds|bytes)$/, "").replaceAll("_", " ")];
  return html`<dl class="figures">${samples.filter(shown).map((each, index) => html`<div key=${index}><dt title=${each.name}>${words(each.name)}${Object.values(each.labels).length ? html` <span class="dim">${plain(Object.values(each.labels).join(", "))}</span>` : ""}</dt><dd>${unit(each)}</dd></div>`)}</dl>`;
}

function Ready() {
  const [state, setState] = useState(null);
  const read = () => request("/readyz").then(async (answer) => setState(answer.ok ? "ok" : (await answer.json()).error.message), (error) => setState(error.message));
  useEffect(() => void read(), []);
  useEvery(AGAIN_MS, read);
  if (state === null) return null;
  return state === "ok" ? html`<${Status} status="success" word="ready" /> <span class="dim">The log takes writes.</span>` : html`<${Status} status="error" word="not ready" /> <span class="failed">${plain(state)}</span>`;
}

export default function System() {
  title("System");
  const samples = useMetrics();
  return html`<section class="page">
    <header class="page-head"><h1>System</h1><p class="totals"><${Ready} /></p></header>
    <section><h2>Workers</h2><${Workers} /></section>
    <section><h2>Projections</h2><${Projections} /></section>
    <section><h2>This process</h2><${Figures} samples=${samples} /></section>
  </section>`;
}
