// What pages are made of: their frame, tables, states, choices and dialogs.

import { useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { ago, moment, number } from "../format.js";
import { title, useNow } from "../hooks.js";
import { href } from "../route.js";
import { html, plain } from "../text.js";

export const STATUSES = ["queued", "running", "waiting", "success", "error", "stopped"];
const WORDS = { success: "done", error: "failed", lost: "no end" };

export const wordOf = (status) => WORDS[status] ?? status;
export const isOpen = (status) => ["queued", "running", "waiting"].includes(status);

/** A colour, and always a word. `word`: instead of the state's own. */
export function Status({ status, stopping = false, word }) {
	const shown = stopping && isOpen(status) ? "stopping" : status;
	return html`<span class=${`status ${shown}`}>${word ?? wordOf(shown)}</span>`;
}

export const link = (text, path, params) => html`<a href=${href(path, params)}>${text}</a>`;

export const Close = ({ onClose }) => html`<button class="quiet" aria-label="Close" onClick=${onClose}>✕</button>`;

export const dim = (content) => html`<span class="dim">${content}</span>`;
export const failed = (content) => html`<span class="failed">${content}</span>`;

/** How long ago a time was; it goes on by itself. */
export const Ago = ({ at }) => html`<time title=${moment(at)}>${ago(at, useNow())}</time>`;

/** state: of `follow`. */
export const Live = ({ state }) => html`<span class=${`live ${state}`}>${state === "lost" ? "connecting…" : "live"}</span>`;

export const Loading = () => html`<div class="empty dim" aria-busy="true"><p class="loading">Loading…</p></div>`;

export const Empty = ({ title, children }) => html`<div class="empty"><h2>${title}</h2>${children}</div>`;

export const Problem = ({ error, onRetry = () => location.reload() }) => html`<div class="empty" role="alert">
	<h2>${{ 403: "Not for you", 404: "Not found" }[error.status] ?? "That did not work"}</h2>
	<p>${error.message}</p>
	${error.code === "projection_not_built" && html`<p class="dim">The server fills it in a moment after its first start.</p>`}
	${error.status !== 403 && html`<button onClick=${onRetry}>Try again</button>`}</div>`;

/** Shows an answer's error; else that it is loading; else `empty`; else what `show` makes of its data. */
export const Found = ({ of: { data, error, loading, reload }, empty, show }) => (error ? html`<${Problem} error=${error} onRetry=${reload} />` : loading ? html`<${Loading} />` : empty || show(data));

/** found: of `useAsked`, for `show`; without it, the children are shown. */
export function Page({ name, totals, head, crumbs, kind = "", found, empty, show, children }) {
	title(name);
	return html`<section class=${`page ${kind}`}>
		${crumbs && html`<nav class="crumbs dim" aria-label="Place">${crumbs}</nav>`}
		<header class="page-head"><h1>${name}</h1><p class="totals dim">${totals}</p>${head}</header>
		${found ? html`<${Found} of=${found} empty=${empty} show=${show} />` : children}</section>`;
}

export const Section = ({ title, children }) => html`<section class="part"><header><h3>${title}</h3></header>${children}</section>`;

/** What was chosen, beside the list. */
export const Panel = ({ label, title, onClose, children }) => html`<article class="detail" aria-label=${label}>
	<header><h2>${title}</h2><${Close} onClose=${onClose} /></header>${children}</article>`;

/** The first of many items, and a button for more of them, which is false if all are shown. */
export function useMore(items, step = 100) {
	const [shown, setShown] = useState(step);
	const more = items.length - shown;
	return [items.slice(0, shown), more > 0 && html`<button class="more" onClick=${() => setShown(shown + 10 * step)}>${number(more)} more</button>`];
}

/** columns: `[heading, cell of a row, class]`. none: what stands there without rows. */
export function Table({ columns, rows, none }) {
	const [some, more] = useMore(rows);
	return html`<div class="scrolls" tabindex="0"><table class="list">
		<thead><tr>${columns.map(([name, , kind]) => html`<th class=${kind}>${name}</th>`)}</tr></thead>
		<tbody>${some.map((row) => html`<tr>${columns.map(([, cell, kind]) => html`<td class=${kind}>${cell(row)}</td>`)}</tr>`)}
			${!rows.length && html`<tr><td colspan=${columns.length} class="dim">${none}</td></tr>`}</tbody></table>${more}</div>`;
}

/** facts: `[name, value]`; one without a value is left out. */
export const Facts = ({ facts, kind = "facts" }) => html`<dl class=${kind}>${facts.filter(([, value]) => value)
	.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

export const Chips = ({ label, options, chosen, onChoose }) => html`<div class="chips" role="group" aria-label=${label}>
	${Object.entries(options).map(([value, text]) => html`<button type="button" aria-pressed=${chosen === value} onClick=${() => onChoose(value)}>${text}</button>`)}</div>`;

/** options: `[value, text]`, or a value that is its text. onChoose: called with the value; without it, it is a form's. */
export const Select = ({ options, chosen, onChoose, ...attributes }) => html`<select ...${attributes} onChange=${onChoose && ((event) => onChoose(event.currentTarget.value))}>
	${options.map((each) => [each].flat()).map(([value, text = value]) => html`<option value=${value} selected=${value === chosen}>${plain(text)}</option>`)}</select>`;

/** A text of one line or of so many rows, or one of the options, with its label. */
export function Field({ id, label, note, children, ...attributes }) {
	const kind = attributes.options ? Select : attributes.rows ? "textarea" : "input";
	return html`<div class="field"><label for=${id}>${label} ${note && dim(note)}</label><${kind} id=${id} name=${id} ...${attributes} />${children}</div>`;
}

export function fieldsOf(event) {
	event.preventDefault();
	return Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()]));
}

export function Dialog({ title, onClose, children }) {
	const ref = useRef(null);
	useEffect(() => {
		const dialog = ref.current;
		dialog.showModal();
		return () => dialog.close();
	}, []);
	return html`<dialog ref=${ref} aria-label=${title} onClick=${(event) => event.target === ref.current && onClose()}
			onCancel=${(event) => { event.preventDefault(); onClose(); }}>
		<div class="dialog"><header><h2>${title}</h2><${Close} onClose=${onClose} /></header>${children}</div></dialog>`;
}

export const Ask = ({ title, action, danger = false, onYes, onClose, children }) => html`<${Dialog} title=${title} onClose=${onClose}>
	<form class="stack-form" onSubmit=${(event) => onYes(fieldsOf(event))}>${children}
		<footer><button type="button" onClick=${onClose}>Cancel</button><button type="submit" class=${danger ? "danger" : "primary"}>${action}</button></footer></form><//>`;
