// Calls, failures and latencies of tools.

import { html } from "../vendor/htm-preact.js";
import { duration, number } from "../format.js";
import { title, useGet } from "../hooks.js";
import { Share } from "../parts/plot.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { href } from "../route.js";
import { plain } from "../text.js";
import { daysOf, Span } from "./usage.js";

const time = (ms) => (ms === null ? "–" : duration(ms));

export default function Tools({ params }) {
  title("Tools");
  const days = daysOf(params);
  const { data, error } = useGet("/audit/tools", { since: days[0], until: days.at(-1) });
  const slowest = data ? Math.max(0, ...data.data.map((row) => row.p95_ms ?? 0)) : 0;
  return html`<section class="page">
    <header class="page-head"><h1>Tools</h1><p class="totals dim">Latencies are estimated from a histogram.</p><${Span} params=${params} /></header>
    ${error ? html`<${Problem} error=${error} />` : !data ? html`<${Loading} />`
      : !data.data.length ? html`<${Empty} title="No tool was called in this time" />`
      : html`<div class="scrolls"><table class="list"><thead><tr><th>Tool</th><th>Agent</th><th class="num">Calls</th><th class="num">Failed</th><th class="num">Mean</th><th class="num">p50</th><th class="num">p95</th><th></th></tr></thead><tbody>
        ${data.data.map((row) => html`<tr key=${`${row.agent} ${row.tool}`}><td><a class="strong" href=${href("runs", { q: `"${row.tool}"` })}>${plain(row.tool)}</a></td><td class="dim">${plain(row.agent)}</td><td class="num">${number(row.calls)}</td>
          <td class=${`num ${row.failures ? "failed" : "dim"}`}>${row.failures ? `${number(row.failures)} (${Math.round((100 * row.failures) / row.calls)}%)` : "–"}</td>
          <td class="num">${time(row.mean_ms)}</td><td class="num">${time(row.p50_ms)}</td><td class="num">${time(row.p95_ms)}</td><td class="bar-cell"><${Share} value=${row.p95_ms ?? 0} most=${slowest} /></td></tr>`)}</tbody></table></div>`}
  </section>`;
}
