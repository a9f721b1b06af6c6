// The steps of a run as a tree beside their times.

import { rowsOf, saidBy } from "../steps.js";
import { compact, duration, html, line, useMemo, useRef, useState, wordOf } from "../kit.js";
import { Virtual } from "./virtual.js";

const ROW_PX = 32;
const TICKS = [0, 0.25, 0.5, 0.75];
const LASTING = new Set(["model", "tool", "question", "agent", "attempt"]); // others are moments
const KINDS = { cancel: "stop", added: "message" };
const GAP_SHARE = 0.08; // of the time; a longer pause is cut to
const CUT_SHARE = 0.02; // of the busy time
const LEAST_GAP_MS = 2_000;

/** The place of a value on a line through points `[x, y]`, whose ends are its bounds. */
function along(points, value) {
	const next = points.findIndex(([x]) => x >= value);
	if (next <= 0) return points.at(next)[1];
	const [[x, y], [x2, y2]] = [points[next - 1], points[next]];
	return y + ((value - x) / (x2 - x)) * (y2 - y);
}

/**
 * The axis of intervals `[start, end]` in ms without their idle gaps, which are its `cuts`. `at(time)` is the place on
 * it, from 0 to 1, and `time(place)` its inverse. `range`: show only this part, whole.
 */
function scaleOf(intervals, range) {
	const sorted = [...intervals].sort((a, b) => a[0] - b[0]);
	const from = range?.[0] ?? sorted[0]?.[0] ?? 0;
	const to = Math.max(from + 1, range?.[1] ?? sorted.reduce((last, [, end]) => Math.max(last, end), from));
	const least = Math.max((to - from) * GAP_SHARE, LEAST_GAP_MS);
	const gaps = [];
	let reached = from;
	for (const [start, end] of range ? [] : sorted) {
		if (start - reached > least) gaps.push([reached, start]);
		reached = Math.max(reached, end);
	}
	const busy = Math.max(gaps.reduce((sum, [start, end]) => sum - (end - start), to - from), 1);
	const cut = busy * CUT_SHARE;
	const whole = busy + cut * gaps.length;
	const points = [[from, 0]];
	for (const [start, end] of gaps) {
		const [time, place] = points.at(-1);
		points.push([start, place + (start - time) / whole], [end, place + (start - time + cut) / whole]);
	}
	points.push([to, 1]);
	const times = points.map(([time, place]) => [place, time]);
	return {
		from, to, at: (time) => along(points, time), time: (place) => along(times, place),
		cuts: gaps.map(([start, end]) => ({ place: along(points, start), length: end - start })),
	};
}

const share = (part) => `${part * 100}%`;
const endOf = (node, now) => node.end ?? now;

function Bar({ node, scale, now }) {
	const end = endOf(node, now);
	if (node.start > scale.to || end < scale.from) return null;
	const left = scale.at(node.start);
	const right = Math.max(scale.at(end), left);
	const waited = right > left && node.first_at ? Math.min(Math.max((scale.at(Date.parse(node.first_at)) - left) / (right - left), 0), 1) : 0;
	return html`<i class=${`bar ${node.kind} ${node.status}`} style=${{ left: share(left), width: `max(3px, ${share(right - left)})` }}>
		${waited > 0.01 && html`<i class="waited" style=${{ width: share(waited) }}></i>`}</i>`;
}

function previewOf(node) {
	if (node.kind === "tool") return node.input === null ? "" : line(JSON.stringify(node.input), 120);
	if (node.kind !== "model") return "";
	return line(node.content ? saidBy(node) : node.text.slice(-120), 120);
}

function Row({ row: { node, depth }, index, scale, now, closed, selected, onToggle, onSelect }) {
	const folds = node.children.length > 0;
	const open = folds && !closed.has(node.key);
	const loud = node.status && node.status !== "success" && node.kind !== "end";
	const preview = useMemo(() => previewOf(node), [node.input, node.content, node.text]);
	const label = line(node.name, 120);
	const toggle = (event) => {
		event.stopPropagation();
		onToggle(node);
	};
	const lasts = LASTING.has(node.kind);
	return html`<div class=${`row step ${node.kind} ${node.status} ${selected ? "cursor" : ""}`} role="row" aria-level=${depth + 1}
			aria-rowindex=${index + 1} aria-selected=${selected} aria-expanded=${folds ? open : undefined} onClick=${() => onSelect(node)}>
		<span class="name" role="gridcell" style=${{ paddingLeft: `calc(${Math.min(depth, 12)} * var(--indent))` }}>
			${folds ? html`<button class="twist" tabindex="-1" aria-label=${open ? "Fold" : "Unfold"} onClick=${toggle}></button>` : html`<i class="twist"></i>`}
			<span class=${`kind ${node.kind}`}>${KINDS[node.kind] ?? node.kind}</span>
			<span class="label" title=${label}>${label}</span>
			<span class="preview dim">${preview}</span>
			${node.usage && html`<span class="spent dim num">${compact(node.usage.input_tokens + node.usage.output_tokens)} tok</span>`}
			${loud && html`<span class=${`word ${node.status}`}>${wordOf(node.status)}</span>`}
		</span>
		<span class="took num" role="gridcell">${lasts ? duration(endOf(node, now) - node.start) : ""}</span>
		<span class="lane" role="gridcell">${lasts ? html`<${Bar} node=${node} scale=${scale} now=${now} />`
			: html`<i class=${`dot ${node.kind}`} style=${{ left: share(scale.at(node.start)) }}></i>`}</span>
	</div>`;
}

function Axis({ scale, start, range, onRange }) {
	const lane = useRef(null);
	const [drag, setDrag] = useState(null);
	const [left, right] = [Math.min(...(drag ?? [0])), Math.max(...(drag ?? [0]))];
	const placeOf = (event) => {
		const box = lane.current.getBoundingClientRect();
		return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
	};
	const down = (event) => {
		event.preventDefault();
		event.currentTarget.setPointerCapture(event.pointerId);
		setDrag([placeOf(event), placeOf(event)]);
	};
	const up = () => {
		if (right - left > 0.01) onRange([left, right].map(scale.time));
		setDrag(null);
	};
	return html`<div class="row step axis" role="row">
		<span class="name" role="columnheader">Step</span><span class="took num" role="columnheader">Time</span>
		<span class="lane" role="columnheader" ref=${lane} onPointerDown=${down} onPointerMove=${(event) => drag && setDrag([drag[0], placeOf(event)])} onPointerUp=${up}>
			${TICKS.map((place) => html`<i class="tick" key=${place} style=${{ left: share(place) }}>${duration(scale.time(place) - start)}</i>`)}
			${scale.cuts.map((cut) => html`<i class="cut" key=${cut.place} style=${{ left: share(cut.place) }} title=${`${duration(cut.length)} without a step are left out`}></i>`)}
			${drag && html`<i class="selection" style=${{ left: share(left), width: share(right - left) }}></i>`}
			${range && html`<button class="more reset" onPointerDown=${(event) => event.stopPropagation()} onClick=${() => onRange(null)}>whole run</button>`}
		</span>
	</div>`;
}

export function Waterfall({ tree, now, closed, selected, onToggle, onSelect, bottom, tail }) {
	const [range, setRange] = useState(null);
	const rows = useMemo(() => rowsOf(tree.roots, closed), [tree, tree.version, closed]);
	const shown = useMemo(() => (range ? rows.filter(({ node }) => node.start <= range[1] && endOf(node, now) >= range[0]) : rows), [rows, range]);
	const running = rows.some(({ node }) => node.end === null);
	const scale = useMemo(() => {
		const calls = rows.filter(({ node }) => node.kind !== "attempt" && node.kind !== "agent");
		return scaleOf((calls.length ? calls : rows).map(({ node }) => [node.start, endOf(node, now)]), range);
	}, [rows, range, running ? now : 0]);
	const index = shown.findIndex(({ node }) => node.key === selected);
	return html`<${Virtual} role="treegrid" label="Steps" count=${shown.length} height=${ROW_PX} selected=${index} bottom=${bottom && !range}
		head=${html`<${Axis} scale=${scale} start=${rows[0]?.node.start ?? 0} range=${range} onRange=${setRange} />`} tail=${tail}
		row=${(place) => html`<${Row} key=${shown[place].node.key} row=${shown[place]} index=${place} scale=${scale} now=${now} closed=${closed}
			selected=${place === index} onToggle=${onToggle} onSelect=${onSelect} />`} />`;
}
