// Tokens and cost per day, agent and model.

import { html } from "../vendor/htm-preact.js";
import { lastDays, SPANS } from "../days.js";
import { compact, duration, money, number } from "../format.js";
import { title, useGet } from "../hooks.js";
import { Bars, Share } from "../parts/plot.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { href, setParams } from "../route.js";
import { useSession } from "../session.js";
import { plain } from "../text.js";

const SHOWN = 50; // rows of a table

export function Span({ params }) {
  const chosen = params.get("days") ?? "30";
  return html`<div class="chips" role="group" aria-label="Time">${Object.entries(SPANS).map(([days, label]) => html`<button key=${days} type="button"
    aria-pressed=${chosen === days} onClick=${() => setParams({ days })}>${label}</button>`)}</div>`;
}

export const daysOf = (params) => lastDays(params.get("days") in SPANS ? Number(params.get("days")) : 30);
const tokensOf = (row) => row.input_tokens + row.output_tokens;
const currencyOf = (rows) => rows.find((row) => row.currency)?.currency ?? "";

export function Table({ name, rows, of, link }) {
  const most = Math.max(0, ...rows.map((row) => row.cost || tokensOf(row)));
  const byCost = rows.some((row) => row.cost > 0);
  const sorted = [...rows].sort((a, b) => (byCost ? b.cost - a.cost : tokensOf(b) - tokensOf(a))).slice(0, SHOWN);
  return html`<section><h2>${name}</h2><div class="scrolls"><table class="list"><thead><tr><th>${of}</th><th class="num">Runs</th><th class="num">Failed</th><th class="num">Calls</th>
      <th class="num">Tokens</th><th class="num">First token</th><th class="num">Cost</th><th></th></tr></thead><tbody>
    ${sorted.map((row) => {
      const key = row.agent ?? row.model ?? row.user_id;
      return html`<tr key=${key}><td>${link ? html`<a href=${link(row)}>${plain(key || "unknown")}</a>` : plain(key || "unknown")}</td><td class="num">${number(row.runs)}</td>
        <td class=${`num ${row.failed ? "failed" : "dim"}`}>${row.failed || "–"}</td><td class="num">${number(row.calls)}</td><td class="num" title=${`${number(row.input_tokens)} in, ${number(row.output_tokens)} out`}>${compact(tokensOf(row))}</td>
        <td class="num">${row.first_token_ms === null ? "–" : duration(row.first_token_ms)}</td><td class="num">${money(row.cost, row.currency)}</td>
        <td class="bar-cell"><${Share} value=${byCost ? row.cost : tokensOf(row)} most=${byCost ? most : Math.max(...rows.map(tokensOf))} /></td></tr>`;
    })}</tbody></table></div></section>`;
}

/** The plots of some rows that are grouped by day. */
export function Plots({ days, rows }) {
  const byDay = new Map(rows.map((row) => [row.day, row]));
  const values = (get) => days.map((day) => (byDay.has(day) ? get(byDay.get(day)) : 0));
  const currency = currencyOf(rows);
  return html`<div class="plots">
    ${currency && html`<${Bars} title="Cost" days=${days} format=${(value) => money(value, currency)} series=${[{ name: "cost", color: "accent", values: values((row) => row.cost) }]} />`}
    <${Bars} title="Tokens" days=${days} format=${compact} series=${[{ name: "input", color: "accent", values: values((row) => row.input_tokens) }, { name: "output", color: "teal", values: values((row) => row.output_tokens) }]} />
    <${Bars} title="Runs" days=${days} format=${compact} series=${[{ name: "done", color: "green", values: values((row) => row.succeeded) }, { name: "failed", color: "red", values: values((row) => row.failed) }, { name: "stopped", color: "amber", values: values((row) => row.stopped) }]} />
    ${rows.some((row) => row.first_token_ms !== null) && html`<${Bars} title="First token, on average" days=${days} format=${(value) => duration(value)} series=${[{ name: "first token", color: "violet", values: values((row) => row.first_token_ms ?? 0) }]} />`}
  </div>`;
}

export default function Usage({ params }) {
  title("Usage");
  const session = useSession();
  const user = session.readsAll ? params.get("user") : session.user_id;
  const days = daysOf(params);
  const asked = { user_id: user, since: days[0], until: days.at(-1) };
  const byDay = useGet("/audit/usage", { ...asked, group: "day" });
  const byAgent = useGet("/audit/usage", { ...asked, group: "agent" });
  const byModel = useGet("/audit/usage", { ...asked, group: "model" });
  const error = byDay.error ?? byAgent.error ?? byModel.error;
  const loading = byDay.loading || byAgent.loading || byModel.loading;
  return html`<section class="page">
    <header class="page-head"><h1>Usage</h1><p class="totals dim">${user ? html`of ${plain(user)}` : "of all users"}, days in UTC</p>
      ${params.get("user") && session.readsAll && html`<button type="button" class="chosen" onClick=${() => setParams({ user: null })}>user: ${plain(params.get("user"))} ✕</button>`}<${Span} params=${params} /></header>
    ${error ? html`<${Problem} error=${error} />` : loading ? html`<${Loading} />`
      : !byDay.data.data.length ? html`<${Empty} title="No runs in this time" />`
      : html`<${Plots} days=${days} rows=${byDay.data.data} />
        <${Table} name="Agents" of="Agent" rows=${byAgent.data.data} link=${(row) => href("runs", { agent: row.agent, user })} />
        <${Table} name="Models" of="Model" rows=${byModel.data.data} />`}
  </section>`;
}
