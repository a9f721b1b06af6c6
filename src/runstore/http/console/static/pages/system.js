// The server itself: workers, queue, projections with their lag, writer, feed and database.

import { Ago, answerOf, attempt, bytes, dim, duration, Facts, failed, Found, html, number, Page, post, Status, Table, useAsked, useGet, useSession } from "../kit.js";

const AGAIN_MS = 2_000;
const SIZE_AGAIN_MS = 60_000; // a server looks at each of its files
const STATES = { running: "success", paused: "stopped", failed: "error", newer: "error", unknown: "stopped" }; // others wait
const KINDS = { sqlite: "SQLite", postgresql: "PostgreSQL", mysql: "MySQL or MariaDB" };
const SAMPLE = /^runstore_(\w+?)(?:\{(.*)\})? (\S+)$/gm; // of Prometheus' text format
const LEFT_OUT = /^build$|_(bucket|created|sum|count)$/;

const Listed = ({ of, ...table }) => html`<${Found} of=${of} show=${({ data }) => html`<${Table} rows=${data} ...${table} />`} />`;

function Workers() {
	const columns = [
		["Host", (each) => each.host],
		["Worker", (each) => html`<code>${each.worker_id.slice(0, 12)}</code>`],
		["Process", (each) => each.pid, "num"],
		["Runs", (each) => number(each.runs), "num"],
		["Capacity", (each) => (each.capacity ? number(each.capacity) : "records only"), "num"],
		["Since", (each) => html`<${Ago} at=${each.started_at} />`, "num"],
		["Lease", (each) => (each.heartbeat_at ? html`<${Ago} at=${each.heartbeat_at} />` : "a lock"), "num"],
	];
	return html`<${Listed} of=${useGet("/workers", {}, AGAIN_MS)} columns=${columns} none="No worker: queued runs wait." />`;
}

const notesOf = ({ rebuilt_to: rebuilt, waits, error, configured, skipped }) => html`
	${rebuilt !== null && dim(`rebuilt up to ${number(rebuilt)}`)} ${waits && dim(waits)}
	${error && failed(`${error.error}. ${error.remedy}`)}
	${!configured && failed("its configuration has changed: rebuild it")} ${skipped > 0 && `${number(skipped)} skipped`}`;

function Projections() {
	const session = useSession();
	const found = useGet("/projections", {}, AGAIN_MS);
	const rebuild = ({ name }) => attempt(() => post(`/projections/${encodeURIComponent(name)}/rebuild`).then(found.reload), `${name} is being rebuilt.`);
	const columns = [
		["Name", (each) => html`<strong>${each.name}</strong>`],
		["State", (each) => html`<${Status} status=${STATES[each.state] ?? "queued"} word=${each.state} />`],
		["Version", (each) => each.live_version ?? "–", "num"],
		["Checkpoint", (each) => (each.inline ? "inline" : each.position === null ? "–" : number(each.position)), "num"],
		["Lag", (each) => html`<span class=${each.lag_s > 60 ? "failed" : ""}>${each.inline || !each.lag_events ? "none" : `${number(each.lag_events)} · ${duration(each.lag_s * 1_000)}`}</span>`, "num"],
		["Notes", notesOf],
		["", (each) => session.admin && html`<button disabled=${each.rebuilt_to !== null} onClick=${() => rebuild(each)}>Rebuild</button>`, "num"],
	];
	return html`<${Listed} of=${found} columns=${columns} />`;
}

function figureOf([, name, labels = "", text]) {
	const value = Number(text);
	const shown = name.endsWith("_bytes") ? bytes(value) : name.endsWith("_seconds") ? duration(value * 1_000) : number(value);
	const words = name.replace(/_(seconds|bytes)$/, "").replaceAll("_", " ");
	return [html`${words} ${dim([...labels.matchAll(/="([^"]*)"/g)].map((label) => label[1]).join(", "))}`, shown];
}

function Figures() {
	const found = useAsked("figures", async (signal) => (await answerOf("/metrics", { signal, headers: { Accept: "text/plain" } })).text(), AGAIN_MS);
	const show = (text) => html`<${Facts} kind="figures" facts=${[...text.matchAll(SAMPLE)].filter(([, name]) => !LEFT_OUT.test(name)).map(figureOf)} />`;
	return html`<${Found} of=${found} show=${show} />`;
}

function Ready() {
	const { data, error } = useGet("/readyz", {}, AGAIN_MS);
	if (error) return html`<${Status} status="error" word="not ready" /> ${failed(error.message)}`;
	return data && html`<${Status} status="success" word="ready" /> The log takes writes.`;
}

const Database = () => html`<${Found} of=${useGet("/database", {}, SIZE_AGAIN_MS)} show=${({ kind, bytes: size }) => html`<${Facts} facts=${[["kind", KINDS[kind]], ["size", bytes(size)]]} />`} />`;

export default function System() {
	const parts = { Database, Workers, Projections, "This process": Figures };
	return html`<${Page} name="System" totals=${html`<${Ready} />`}>
		${Object.entries(parts).map(([name, Part]) => html`<section><h2>${name}</h2><${Part} /></section>`)}<//>`;
}
