// Usage, users and tools by day (UTC), agent and model.

import { Chips, compact, dim, duration, Empty, failed, href, html, link, money, number, Page, setParams, Table, useGet, useSession } from "../kit.js";
import { Bars, Share } from "../parts/plot.js";

const SPANS = { 7: "7 days", 30: "30 days", 90: "90 days" };
const DAY_MS = 86_400_000;

function daysOf(params) {
	const count = Number(params.get("days") in SPANS ? params.get("days") : 30);
	return Array.from({ length: count }, (_, index) => new Date(Date.now() - (count - 1 - index) * DAY_MS).toISOString().slice(0, 10));
}

/** content: called with the rows of the reports once all are there. */
function Report({ name, totals, params, reports, head, content }) {
	const rows = reports.map(({ data }) => data?.data);
	const choice = html`<${Chips} label="Time" options=${SPANS} chosen=${params.get("days") ?? "30"} onChoose=${(days) => setParams({ days })} />`;
	return html`<${Page} name=${name} totals=${totals} head=${html`${head}${choice}`} found=${reports.find(({ data }) => !data) ?? reports[0]}
		empty=${rows[0]?.length === 0 && html`<${Empty} title="Nothing in this time" />`} show=${() => content(...rows)} />`;
}

function useReport(path, params, query) {
	const days = daysOf(params);
	return [days, useGet(path, { since: days[0], until: days.at(-1), ...query })];
}

const tokensOf = (row) => row.input_tokens + row.output_tokens;

function Groups({ rows, of, to }) {
	const worth = rows.some((row) => row.cost > 0) ? (row) => row.cost : tokensOf;
	const most = Math.max(0, ...rows.map(worth));
	const nameOf = (row) => (row.agent ?? row.model ?? row.user_id) || "unknown";
	const columns = [
		[of, (row) => (to ? link(nameOf(row), ...to(row)) : nameOf(row))],
		["Runs", (row) => number(row.runs), "num"],
		["Failed", (row) => (row.failed ? failed(number(row.failed)) : dim("–")), "num"],
		["Calls", (row) => number(row.calls), "num"],
		["Tokens", (row) => html`<span title=${`${number(row.input_tokens)} in, ${number(row.output_tokens)} out`}>${compact(tokensOf(row))}</span>`, "num"],
		["First token", (row) => duration(row.first_token_ms), "num"],
		["Cost", (row) => money(row.cost, row.currency), "num"],
		["", (row) => html`<${Share} value=${worth(row)} most=${most} />`, "bar-cell"],
	];
	return html`<section><h2>${of}s</h2><${Table} columns=${columns} rows=${[...rows].sort((a, b) => worth(b) - worth(a))} /></section>`;
}

/** plots: of `[title, format, series]`, with series of `[name, color, column]`. */
function Plots({ days, rows, plots }) {
	const of = (column) => days.map((day) => rows.find((row) => row.day === day)?.[column] ?? 0);
	return html`<div class="plots">${plots.map(([title, format, series]) => html`<${Bars} title=${title} days=${days} format=${format} summed=${format !== duration}
		series=${series.map(([name, color, column]) => [name, color, of(column)])} />`)}</div>`;
}

function plotsOf(rows) {
	const currency = rows.find((row) => row.currency)?.currency;
	return [
		currency && ["Cost", (value) => money(value, currency), [["cost", "accent", "cost"]]],
		["Tokens", compact, [["input", "accent", "input_tokens"], ["output", "teal", "output_tokens"]]],
		["Runs", compact, [["done", "green", "succeeded"], ["failed", "red", "failed"], ["stopped", "amber", "stopped"]]],
		rows.some((row) => row.first_token_ms !== null) && ["First token, on average", duration, [["first token", "violet", "first_token_ms"]]],
	].filter(Boolean);
}

const TOOL_PLOTS = [
	["Calls", compact, [["done", "green", "succeeded"], ["failed", "red", "failures"]]],
	["Latency", duration, [["p95", "amber", "p95_ms"], ["p50", "accent", "p50_ms"]]],
];

/** Plots by day, and a table for each of the groups `of`. links: where a row leads, by its group. */
function Spent({ params, user, of, links, ...shown }) {
	const [[days, byDay], ...grouped] = ["day", ...of].map((group) => useReport("/audit/usage", params, { user_id: user, group: group.toLowerCase() }));
	return html`<${Report} params=${params} reports=${[byDay, ...grouped.map(([, report]) => report)]} ...${shown}
		content=${(ofDays, ...groups) => html`<${Plots} days=${days} rows=${ofDays} plots=${plotsOf(ofDays)} />
			${groups.map((rows, index) => html`<${Groups} of=${of[index]} rows=${rows} to=${links[of[index]]} />`)}`} />`;
}

export function Usage({ params }) {
	const session = useSession();
	const user = session.readsAll ? params.get("user") : session.user_id;
	const head = params.get("user") && session.readsAll && html`<button class="chosen" onClick=${() => setParams({ user: null })}>user: ${user} ✕</button>`;
	return html`<${Spent} name="Usage" totals=${`${user ? `of ${user}` : "of all users"}, days in UTC`} params=${params} user=${user} head=${head}
		of=${["Agent", "Model"]} links=${{ Agent: ({ agent }) => ["runs", { agent, user }] }} />`;
}

export const Users = ({ params }) => html`<${Spent} name="Users" totals="of all users, days in UTC" params=${params} of=${["User"]}
	links=${{ User: (row) => ["usage", { user: row.user_id, days: params.get("days") }] }} />`;

export function Tools({ params }) {
	const [, report] = useReport("/audit/tools", params);
	const [days, byDay] = useReport("/audit/tools", params, { group: "day" });
	const slowest = Math.max(0, ...(report.data?.data ?? []).map((row) => row.p95_ms ?? 0));
	const columns = [
		["Tool", (row) => html`<a class="strong" href=${href("runs", { q: `"${row.tool}"` })}>${row.tool}</a>`],
		["Agent", (row) => dim(row.agent)],
		["Calls", (row) => number(row.calls), "num"],
		["Failed", ({ failures, calls }) => (failures ? failed(`${number(failures)} (${Math.round((100 * failures) / calls)}%)`) : "–"), "num"],
		...[["Mean", "mean_ms"], ["p50", "p50_ms"], ["p95", "p95_ms"]].map(([name, column]) => [name, (row) => duration(row[column]), "num"]),
		["", (row) => html`<${Share} value=${row.p95_ms ?? 0} most=${slowest} />`, "bar-cell"],
	];
	return html`<${Report} name="Tools" totals="of all users, days in UTC" params=${params} reports=${[report, byDay]}
		content=${(rows, ofDays) => html`<${Plots} days=${days} rows=${ofDays.map((row) => ({ ...row, succeeded: row.calls - row.failures }))} plots=${TOOL_PLOTS} /><${Table} columns=${columns} rows=${rows} />`} />`;
}
