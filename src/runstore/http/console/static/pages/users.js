// What each user's runs used and cost.

import { html } from "../vendor/htm-preact.js";
import { title, useGet } from "../hooks.js";
import { counted } from "../format.js";
import { Empty, Loading, Problem } from "../parts/problem.js";
import { href } from "../route.js";
import { daysOf, Plots, Span, Table } from "./usage.js";

export default function Users({ params }) {
  title("Users");
  const days = daysOf(params);
  const asked = { since: days[0], until: days.at(-1) };
  const { data, error } = useGet("/audit/usage", { ...asked, group: "user" });
  const user = params.get("user");
  const one = useGet(user ? "/audit/usage" : null, { ...asked, group: "day", user_id: user });
  return html`<section class="page">
    <header class="page-head"><h1>Users</h1><p class="totals dim">${data ? counted(data.data.length, "user") : ""}</p><${Span} params=${params} /></header>
    ${error ? html`<${Problem} error=${error} />` : !data ? html`<${Loading} />`
      : !data.data.length ? html`<${Empty} title="No runs in this time" />`
      : html`${one.data && html`<${Plots} days=${days} rows=${one.data.data} />`}
        <${Table} name="By cost" of="User" rows=${data.data} link=${(row) => href("usage", { user: row.user_id, days: params.get("days") })} />
        <p class="dim">A user's name leads to the user's usage; from there to <a href=${href("sessions")}>sessions</a> and <a href=${href("runs")}>runs</a>.</p>`}
  </section>`;
}
