// The time of a run: a slider over its events. At its end the page is live.

import { html } from "../vendor/htm-preact.js";
import { clock, number } from "../format.js";

export function TimeSlider({ head, at, time, onAt }) {
  const value = at ?? head;
  const move = (seq) => onAt(seq >= head ? null : Math.max(1, seq));
  return html`<div class=${`time-slider ${at ? "past" : ""}`} role="group" aria-label="Time">
    <button type="button" class="quiet" aria-label="One event back" disabled=${value <= 1} onClick=${() => move(value - 1)}>◂</button>
    <input type="range" min="1" max=${Math.max(head, 1)} value=${value} aria-label="Event" aria-valuetext=${`event ${number(value)} of ${number(head)}`}
      onInput=${(event) => move(event.currentTarget.valueAsNumber)} />
    <button type="button" class="quiet" aria-label="One event on" disabled=${!at} onClick=${() => move(value + 1)}>▸</button>
    <span class="place"><strong>${number(value)}</strong> <span class="dim">/ ${number(head)}${time ? ` · ${clock(time)}` : ""}</span></span>
    <button type="button" class="more" disabled=${!at} onClick=${() => onAt(null)}>${at ? "Back to now" : "now"}</button>
  </div>`;
}
