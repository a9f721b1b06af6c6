// Two runs side by side.

import { compact, dim, duration, Empty, get, html, line, link, money, Page, shortId, Status, titleOf, tookOf, useAsked, useMore } from "../kit.js";

function Side({ there, parts, side }) {
	if (!there) return html`<td>${dim("–")}</td>`;
	return html`<td><div class="text">${parts.map(([kind, text]) => (kind === "same" ? text : kind === side && html`<mark class=${side}>${text}</mark>`))}</div></td>`;
}

function Comparison({ runs, data, complete }) {
	const [pairs, more] = useMore(data);
	const fact = (name, of, shown = (value) => value) => {
		const [left, right] = runs.map(of);
		return html`<tr class=${left === right ? "" : "differs"}><th scope="row">${name}</th><td>${shown(left)}</td><td>${shown(right)}</td></tr>`;
	};
	return html`<div class="scrolls" tabindex="0"><table class="compare"><thead><tr><th></th>${runs.map(({ run }) => html`<th>${link(titleOf(run, 60), `runs/${run.run_id}`)} <code>${shortId(run.run_id)}</code></th>`)}</tr></thead><tbody>
		${fact("State", ({ run }) => run.status, (status) => html`<${Status} status=${status} />`)}
		${fact("Agent", ({ run }) => run.agent_name)}
		${fact("Duration", ({ run }) => duration(tookOf(run, Date.now())))}
		${fact("Tokens", ({ run }) => compact(run.usage.total_tokens ?? 0))}
		${fact("Cost", ({ cost, currency }) => money(cost, currency))}
		${fact("Steps", ({ steps }) => steps)}
		${pairs.map(({ kind, name, left, right, parts }) => html`<tr class=${left && right && parts.every(([each]) => each === "same") ? "" : "differs"}>
			<th scope="row"><span class=${`kind ${kind}`}>${kind}</span> ${kind === "model" || kind === "tool" ? line(name, 40) : ""}</th>
			<${Side} there=${left} parts=${parts} side="left" /><${Side} there=${right} parts=${parts} side="right" /></tr>`)}
	</tbody></table>${more}</div>${!complete && html`<p class="dim">Only the first steps of a long run are compared.</p>`}`;
}

export default function Compare({ params }) {
	const [a, b] = [params.get("a"), params.get("b")];
	const found = useAsked(a && b && `${a} ${b}`, (signal) => get(`/runs/${encodeURIComponent(a)}/compare/${encodeURIComponent(b)}`, {}, signal));
	return html`<${Page} name="Compare two runs" totals="Differences are marked." found=${found}
		empty=${!(a && b) && html`<${Empty} title="Choose two runs in the list" />`} show=${(data) => html`<${Comparison} ...${data} />`} />`;
}
