// The steps of a run as a tree beside their times. Drag over the axis to look at a part of the time.

import { html, useMemo, useRef, useState } from "../vendor/htm-preact.js";
import { firstOf, rowsOf, textOf } from "../fold.js";
import { compact, duration } from "../format.js";
import { scaleOf } from "../scale.js";
import { line, plain } from "../text.js";
import { wordOf } from "./status.js";
import { Virtual } from "./virtual.js";

export const ROW_PX = 32;
const TICKS = [0, 0.25, 0.5, 0.75, 1];
const TIMED = new Set(["model", "tool", "question"]);
const KINDS = { attempt: "attempt", agent: "agent", model: "model", tool: "tool", question: "question", note: "note", cancel: "stop", added: "message", end: "end" };

const endOf = (node, now) => node.end ?? now;

function Bar({ node, scale, now }) {
  const left = scale.at(node.start);
  const right = Math.max(scale.at(endOf(node, now)), left);
  if (node.start > scale.to || endOf(node, now) < scale.from) return null;
  const first = firstOf(node);
  const waited = first && right > left ? Math.min(Math.max((scale.at(first) - left) / (right - left), 0), 1) : 0;
  return html`<i class=${`bar ${node.kind} ${node.status}`} style=${{ left: `${left * 100}%`, width: `max(3px, ${(right - left) * 100}%)` }}>
    ${waited > 0.01 && html`<i class="waited" style=${{ width: `${waited * 100}%` }}></i>`}</i>`;
}

/** One line of what a step says or asks. */
function previewOf(node) {
  if (node.kind === "tool") return node.input === undefined ? "" : line(JSON.stringify(node.input), 120);
  if (node.kind !== "model") return "";
  return line(node.content ? textOf(node) : node.tokens.slice(-20).map((token) => token.text).join(""), 120);
}

function Row({ row, index, scale, now, closed, selected, onToggle, onSelect }) {
  const { node, depth } = row;
  const folds = node.children.length > 0;
  const open = folds && !closed.has(node.key);
  const quiet = node.status === "success" || node.status === "" || node.kind === "end";
  const preview = useMemo(() => previewOf(node), [node.input, node.content, node.lastSeq]);
  const label = node.kind === "model" ? node.name : line(node.name, 120);
  return html`<div class=${`row step ${node.kind} ${node.status} ${selected ? "cursor" : ""}`} role="row" aria-level=${depth + 1}
      aria-rowindex=${index + 1} aria-selected=${selected} aria-expanded=${folds ? open : undefined} onClick=${() => onSelect(node)}>
    <span class="name" role="gridcell" style=${{ paddingLeft: `calc(${Math.min(depth, 12)} * var(--indent))` }}>
      ${folds ? html`<button type="button" class="twist" tabindex="-1" aria-label=${open ? "Fold" : "Unfold"}
        onClick=${(event) => { event.stopPropagation(); onToggle(node); }}>${open ? "▾" : "▸"}</button>` : html`<i class="twist"></i>`}
      <span class=${`kind ${node.kind}`}>${KINDS[node.kind]}</span>
      <span class="label" title=${plain(label)}>${plain(label)}</span>
      <span class="preview dim">${preview}</span>
      ${node.usage && html`<span class="spent dim num">${compact(node.usage.input_tokens + node.usage.output_tokens)} tok</span>`}
      ${!quiet && html`<span class=${`word ${node.status}`}>${wordOf(node.status)}</span>`}
    </span>
    <span class="took num" role="gridcell">${TIMED.has(node.kind) || folds ? duration(endOf(node, now) - node.start) : ""}</span>
    <span class="lane" role="gridcell">${(TIMED.has(node.kind) || node.kind === "agent" || node.kind === "attempt")
      ? html`<${Bar} node=${node} scale=${scale} now=${now} />`
      : html`<i class=${`dot ${node.kind}`} style=${{ left: `${scale.at(node.start) * 100}%` }}></i>`}</span>
  </div>`;
}

function Axis({ scale, start, range, onRange }) {
  const lane = useRef(null);
  const [drag, setDrag] = useState(null);
  const placeOf = (event) => {
    const box = lane.current.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  };
  const down = (event) => {
    event.preventDefault();
    event.currentTarget.setPointerCapture(event.pointerId);
    const place = placeOf(event);
    setDrag([place, place]);
  };
  const up = () => {
    if (drag && Math.abs(drag[1] - drag[0]) > 0.01) onRange([Math.min(...drag), Math.max(...drag)].map(scale.time));
    setDrag(null);
  };
  return html`<div class="row step axis" role="row">
    <span class="name" role="columnheader">Step</span><span class="took num" role="columnheader">Time</span>
    <span class="lane" role="columnheader" ref=${lane} onPointerDown=${down} onPointerMove=${(event) => drag && setDrag([drag[0], placeOf(event)])} onPointerUp=${up}>
      ${TICKS.slice(0, -1).map((place) => html`<i class="tick" key=${place} style=${{ left: `${place * 100}%` }}>${duration(scale.time(place) - start)}</i>`)}
      ${scale.cuts.map((cut) => html`<i class="cut" key=${cut.place} style=${{ left: `${cut.place * 100}%` }} title=${`${duration(cut.length)} without a step are left out`}></i>`)}
      ${drag && html`<i class="selection" style=${{ left: `${Math.min(...drag) * 100}%`, width: `${Math.abs(drag[1] - drag[0]) * 100}%` }}></i>`}
      ${range && html`<button type="button" class="more reset" onPointerDown=${(event) => event.stopPropagation()} onClick=${() => onRange(null)}>whole run</button>`}
    </span>
  </div>`;
}

/** version: changes with the fold. selected: the key of the chosen step. bottom: keep the newest step in view. */
export function Waterfall({ fold, version, now, closed, selected, onToggle, onSelect, bottom, tail }) {
  const [range, setRange] = useState(null);
  const rows = useMemo(() => rowsOf(fold.roots, closed), [fold, version, closed]);
  const shown = useMemo(() => (range ? rows.filter(({ node }) => node.start <= range[1] && endOf(node, now) >= range[0]) : rows), [rows, range]);
  const running = rows.some(({ node }) => node.end === null);
  const scale = useMemo(() => {
    const timed = rows.filter(({ node }) => node.kind !== "attempt" && node.kind !== "agent").map(({ node }) => [node.start, endOf(node, now)]);
    return scaleOf(timed.length ? timed : rows.map(({ node }) => [node.start, endOf(node, now)]), range);
  }, [rows, range, running ? now : 0]);
  const start = rows[0]?.node.start ?? 0;
  const index = shown.findIndex(({ node }) => node.key === selected);
  return html`<${Virtual} role="treegrid" label="Steps" count=${shown.length} height=${ROW_PX} selected=${index} bottom=${bottom && !range}
    head=${html`<${Axis} scale=${scale} start=${start} range=${range} onRange=${setRange} />`} tail=${tail}
    row=${(place) => html`<${Row} key=${shown[place].node.key} row=${shown[place]} index=${place} scale=${scale} now=${now} closed=${closed}
      selected=${place === index} onToggle=${onToggle} onSelect=${onSelect} />`} />`;
}
