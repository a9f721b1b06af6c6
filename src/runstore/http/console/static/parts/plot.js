// Small plots in SVG: bars per day with their values on hover and in a table for screen readers.

import { html, useState } from "../vendor/htm-preact.js";
import { useSize } from "../hooks.js";

const HEIGHT = 150;
const FOOT = 20; // for the days
const SIDE = 52; // for the values

/** A round number that is at least `value`. */
function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** days: `["2026-11-29", …]`. series: `[{name, color, values}]`, stacked. format: a value as text. */
export function Bars({ title, days, series, format }) {
  const [ref, { width }] = useSize();
  const [hovered, setHovered] = useState(-1);
  const sums = days.map((_, index) => series.reduce((sum, each) => sum + each.values[index], 0));
  const top = roundUp(Math.max(0, ...sums));
  const inner = Math.max(width - SIDE, 1);
  const step = inner / Math.max(days.length, 1);
  const y = (value) => (HEIGHT - FOOT) * (1 - value / top);
  const every = Math.ceil(days.length / Math.max(Math.floor(inner / 60), 1));
  const total = sums.reduce((sum, value) => sum + value, 0);
  return html`<figure class="plot">
    <figcaption><h2>${title}</h2><span class="dim">${hovered >= 0 ? html`${days[hovered]}: <strong>${format(sums[hovered])}</strong>${series.length > 1 ? ` (${series.map((each) => `${each.name} ${format(each.values[hovered])}`).join(", ")})` : ""}` : format(total)}</span></figcaption>
    <div ref=${ref} class="plot-box">
      <svg width=${width} height=${HEIGHT} role="img" aria-label=${`${title}: ${format(total)} in ${days.length} days`} onMouseLeave=${() => setHovered(-1)}>
        ${[0, 0.5, 1].map((share) => html`<g key=${share}><line x1=${SIDE} x2=${width} y1=${y(top * share)} y2=${y(top * share)} class="grid" />
          <text x=${SIDE - 8} y=${y(top * share) + (share === 1 ? 10 : 4)} text-anchor="end">${format(top * share)}</text></g>`)}
        ${days.map((day, index) => {
          let below = 0;
          return html`<g key=${day} class=${index === hovered ? "hovered" : ""} onMouseEnter=${() => setHovered(index)}>
            <rect x=${SIDE + index * step} y="0" width=${step} height=${HEIGHT - FOOT} class="hit" />
            ${series.map((each) => {
              const value = each.values[index];
              const high = y(below + value);
              const height = y(below) - high;
              below += value;
              return height > 0 && html`<rect key=${each.name} x=${SIDE + index * step + Math.min(step * 0.15, 4)} y=${high} width=${Math.max(step - 2 * Math.min(step * 0.15, 4), 1)} height=${height} rx=${Math.min(2, step / 4)} class=${`fill-${each.color}`} />`;
            })}
            ${index % every === 0 && html`<text x=${SIDE + (index + 0.5) * step} y=${HEIGHT - 5} text-anchor="middle">${day.slice(5)}</text>`}</g>`;
        })}
      </svg></div>
    ${series.length > 1 && html`<p class="legend dim">${series.map((each) => html`<span key=${each.name}><i class=${`swatch ${each.color}`}></i>${each.name}</span>`)}</p>`}
  </figure>`;
}

/** A bar in a table's cell: its share of the greatest value. */
export const Share = ({ value, most }) => html`<span class="share" aria-hidden="true"><i style=${{ width: `${most > 0 ? (100 * value) / most : 0}%` }}></i></span>`;
