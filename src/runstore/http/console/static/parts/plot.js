// Small plots in SVG: bars per day with their values on hover.

import { html, useSize } from "../kit.js";

const HEIGHT = 150;
const FOOT = 20; // for the days
const SIDE = 52; // for the values
const TICK_PX = 60; // between two days that are named

function roundUp(value) {
	if (value <= 0) return 1;
	const power = 10 ** Math.floor(Math.log10(value));
	return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

const sum = (...values) => values.reduce((found, value) => found + value, 0);

/** days: `["2026-11-29", …]`. series: `[name, color, values]`, stacked if they are `summed`; else the greatest comes first. */
export function Bars({ title, days, series, format, summed }) {
	const [ref, { width }] = useSize();
	const heights = days.map((_, index) => (summed ? sum : Math.max)(...series.map(([, , values]) => values[index])));
	const top = roundUp(Math.max(0, ...heights));
	const step = Math.max(width - SIDE, 1) / days.length;
	const gap = Math.min(step * 0.15, 4);
	const y = (value) => (HEIGHT - FOOT) * (1 - value / top);
	const every = Math.ceil(TICK_PX / step);
	const several = series.length > 1;
	const total = summed ? format(sum(...heights)) : "";
	const bar = (index) => {
		let below = 0;
		return series.map(([, color, values]) => {
			const from = below;
			if (summed) below += values[index];
			return values[index] > 0 && html`<rect x=${SIDE + index * step + gap} y=${y(from + values[index])} width=${Math.max(step - 2 * gap, 1)} height=${y(from) - y(from + values[index])} class=${`fill-${color}`} />`;
		});
	};
	const valuesOf = (index) => series.map(([name, , values]) => `${several ? name : ""} ${format(values[index])}`).join(", ");
	return html`<figure class="plot">
		<figcaption><h2>${title}</h2><span class="dim">${total}</span></figcaption>
		<div ref=${ref} class="plot-box">
			<svg width=${width} height=${HEIGHT} role="img" aria-label=${`${title}: ${total} in ${days.length} days`}>
				${[0, 0.5, 1].map((part) => html`<line x1=${SIDE} x2=${width} y1=${y(top * part)} y2=${y(top * part)} class="grid" />
					<text x=${SIDE - 8} y=${y(top * part) + (part === 1 ? 10 : 4)} text-anchor="end">${format(top * part)}</text>`)}
				${days.map((day, index) => html`<g><title>${day}: ${valuesOf(index)}</title>
					<rect x=${SIDE + index * step} y="0" width=${step} height=${HEIGHT - FOOT} class="hit" />${bar(index)}
					${index % every === 0 && html`<text x=${SIDE + (index + 0.5) * step} y=${HEIGHT - 5} text-anchor="middle">${day.slice(5)}</text>`}</g>`)}
			</svg></div>
		${several && html`<p class="legend dim">${series.map(([name, color]) => html`<span><i class=${`swatch ${color}`}></i>${name}</span>`)}</p>`}
	</figure>`;
}

export const Share = ({ value, most }) => html`<span class="share" aria-hidden="true"><i style=${{ width: `${most > 0 ? (100 * value) / most : 0}%` }}></i></span>`;
