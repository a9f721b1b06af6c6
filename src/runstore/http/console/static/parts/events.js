// The raw events of a run with their seq. The list is as long as the run; only the pages that are looked at are read.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { clock, moment, number } from "../format.js";
import { line } from "../text.js";
import { Json } from "./json.js";
import { Virtual } from "./virtual.js";

const ROW_PX = 28;
const PAGE = 250; // events of a request
const KEPT_PAGES = 60; // in memory
const FAMILIES = ["", "lifecycle.*", "agent.*", "llm.*", "tool.*", "input.*", "custom.*"];

const briefOf = ({ data }) => line(data?.text ?? data?.name ?? data?.message?.role ?? data?.reason ?? data?.agent ?? (data ? JSON.stringify(data) : ""), 160);

/** Events by their place, `{at(index), count, want(first, last)}`: by seq, or in the order of a filtered list. */
function useEvents(runId, head, types) {
  const [, setTurn] = useState(0);
  const state = useRef(null);
  const key = `${runId} ${types}`;
  if (state.current?.key !== key) state.current = { key, pages: new Map(), wanted: new Set(), found: [], next: 0, busy: false };
  const mine = state.current;
  const draw = () => state.current === mine && setTurn((turn) => turn + 1);
  const read = (after, limit) => get(`/runs/${runId}/events`, { after, limit, types: types || undefined });

  const wantPage = async (page) => {
    if (mine.wanted.has(page)) return;
    mine.wanted.add(page);
    const found = mine.pages.get(page) ?? [];
    try {
      for (let after = page * PAGE + found.length; after < Math.min((page + 1) * PAGE, head); ) {
        const answer = await read(after, (page + 1) * PAGE - after);
        if (!answer.data.length) break;
        found.push(...answer.data);
        after += answer.data.length;
      }
      mine.pages.delete(page);
      mine.pages.set(page, found);
      if (mine.pages.size > KEPT_PAGES) mine.pages.delete(mine.pages.keys().next().value);
    } catch {
      // shown as not loaded; it is asked for again when it is looked at
    }
    mine.wanted.delete(page);
    draw();
  };
  const wantMore = async () => {
    if (mine.busy || mine.next === null) return;
    mine.busy = true;
    try {
      const answer = await read(mine.next, PAGE);
      mine.found.push(...answer.data);
      mine.next = answer.next;
    } catch {
      // likewise
    }
    mine.busy = false;
    draw();
  };
  useEffect(() => void (types && wantMore()), [key]);
  if (types) {
    return { count: mine.found.length, at: (index) => mine.found[index], want: (first, last) => last >= mine.found.length - 50 && wantMore(), more: mine.next !== null, placeOf: (seq) => mine.found.findIndex((event) => event.seq >= seq) };
  }
  return {
    count: head, more: false, placeOf: (seq) => seq - 1,
    at: (index) => mine.pages.get(Math.floor(index / PAGE))?.[index % PAGE],
    want: (first, last) => {
      for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page += 1) {
        const known = mine.pages.get(page)?.length ?? 0;
        if (known < Math.min(PAGE, head - page * PAGE)) wantPage(page);
      }
    },
  };
}

export function Events({ runId, head, from, follow, onFrom }) {
  const [types, setTypes] = useState("");
  const events = useEvents(runId, head, types);
  const chosen = from ? events.at(events.placeOf(from)) : null;
  return html`<div class=${`split ${chosen ? "open" : ""}`}>
    <div class="stack">
      <div class="filters"><select aria-label="Types" value=${types} onChange=${(event) => setTypes(event.currentTarget.value)}>
        ${FAMILIES.map((each) => html`<option key=${each} value=${each}>${each || "all types"}</option>`)}</select>
        <span class="dim">${number(head)} events</span></div>
      <${Virtual} role="table" label="Events" count=${events.count} height=${ROW_PX} selected=${from ? events.placeOf(from) : -1} bottom=${follow && !from} onRange=${events.want}
        row=${(index) => {
          const event = events.at(index);
          if (!event) return html`<div class="row event" role="row" key=${index} aria-rowindex=${index + 1}><span class="num dim" role="cell">${number(index + 1)}</span><span class="dim" role="cell">…</span></div>`;
          return html`<div class=${`row event ${event.seq === from ? "cursor" : ""}`} role="row" key=${index} aria-rowindex=${index + 1} onClick=${() => onFrom(event.seq)}>
            <span class="num dim" role="cell">${number(event.seq)}</span><span class="dim time" role="cell">${clock(event.at)}</span>
            <span class="type" role="cell"><button type="button" class="plain">${line(event.type, 130)}</button></span><span class="brief dim" role="cell">${briefOf(event)}</span></div>`;
        }} />
    </div>
    ${chosen && html`<article class="detail" aria-label="Event"><header><h2><span class="dim">${number(chosen.seq)}</span> ${line(chosen.type, 130)}</h2>
        <button type="button" class="quiet" aria-label="Close" onClick=${() => onFrom(null)}>✕</button></header>
      <p class="meta dim">${moment(chosen.at)}${chosen.by ? html` · by ${line(chosen.by)}` : ""}</p><${Json} value=${chosen.data} /></article>`}
  </div>`;
}
