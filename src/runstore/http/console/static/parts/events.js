// The raw events of a run with their seq. Only the pages that are looked at are read.

import { clock, dim, get, html, line, moment, number, Panel, useRef, useState } from "../kit.js";
import { Json } from "./blocks.js";
import { Virtual } from "./virtual.js";

const ROW_PX = 28;
const PAGE = 250; // events of a request
const KEPT_PAGES = 60; // in memory

const briefOf = ({ data }) => line(data?.text ?? data?.name ?? data?.message?.role ?? data?.reason ?? data?.agent ?? (data ? JSON.stringify(data) : ""), 160);

/** The events by their place, in pages that are read on demand: `{at(index), want(first, last)}`. */
function useEvents(runId, head) {
	const [, draw] = useState({});
	const { current: pages } = useRef(new Map());
	const { current: wanted } = useRef(new Set());
	const load = async (page, known) => {
		wanted.add(page);
		// An error shows as events that are not loaded; they are asked for again when they are looked at.
		const { data } = await get(`/runs/${runId}/events`, { after: page * PAGE + known, limit: PAGE - known }).catch(() => ({ data: [] }));
		const found = [...(pages.get(page) ?? []), ...data];
		pages.delete(page); // so that it becomes the last one
		pages.set(page, found);
		if (pages.size > KEPT_PAGES) pages.delete(pages.keys().next().value);
		wanted.delete(page);
		if (data.length) draw({});
	};
	const want = (first, last) => {
		for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page += 1) {
			const known = pages.get(page)?.length ?? 0;
			if (known < Math.min(PAGE, head - page * PAGE) && !wanted.has(page)) load(page, known);
		}
	};
	return { want, at: (index) => pages.get(Math.floor(index / PAGE))?.[index % PAGE] };
}

export function Events({ runId, head, from, follow, onFrom }) {
	const events = useEvents(runId, head);
	const place = from ? from - 1 : -1;
	const chosen = events.at(place);
	const row = (index) => {
		const event = events.at(index);
		return html`<div class=${`row event ${event && event.seq === from ? "cursor" : ""}`} role="row" key=${index} aria-rowindex=${index + 1} onClick=${() => event && onFrom(event.seq)}>
			<span class="num dim" role="cell">${number(event?.seq ?? index + 1)}</span>${event ? html`<span class="dim time" role="cell">${clock(event.at)}</span>
			<span class="type" role="cell"><button class="plain">${line(event.type, 130)}</button></span><span class="brief dim" role="cell">${briefOf(event)}</span>` : html`<span class="dim" role="cell">…</span>`}</div>`;
	};
	return html`<div class=${`split ${chosen ? "open" : ""}`}>
		<div class="stack">
			<p class="dim">${number(head)} events</p>
			<${Virtual} role="table" label="Events" count=${head} height=${ROW_PX} selected=${place} bottom=${follow && !from} onRange=${events.want} row=${row} />
		</div>
		${chosen && html`<${Panel} label="Event" onClose=${() => onFrom(null)} title=${html`${dim(number(chosen.seq))} ${line(chosen.type, 130)}`}>
			<p class="meta dim">${moment(chosen.at)}${chosen.by ? ` · by ${line(chosen.by)}` : ""}</p><${Json} value=${chosen.data} /><//>`}
	</div>`;
}
