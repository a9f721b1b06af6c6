// A list that keeps only the visible rows in the document, so that 100,000 rows scroll as 100 do.

import { html, useEffect, useLayoutEffect, useSize, useState } from "../kit.js";

const MARGIN = 12; // rows above and below that are ready

/** height: of a row, in px. row: renders an index. selected: an index to keep in view. bottom: keep the end in view. */
export function Virtual({ count, height, row, selected = -1, bottom = false, onRange, head, label, role, tail }) {
	const [ref, size] = useSize();
	const [top, setTop] = useState(0);
	const first = Math.max(0, Math.floor(top / height) - MARGIN);
	const last = Math.min(count, Math.ceil((top + size.height) / height) + MARGIN);

	useEffect(() => {
		if (size.height) onRange?.(first, last);
	}, [first, last, count, size.height > 0]);
	useLayoutEffect(() => {
		if (selected < 0 || !size.height) return;
		const element = ref.current;
		const above = head ? element.querySelector(".virtual-head").offsetHeight : 0;
		const from = selected * height;
		element.scrollTop = Math.min(from, Math.max(element.scrollTop, from + height + above - size.height));
	}, [selected, size.height > 0]);
	useLayoutEffect(() => {
		if (bottom) ref.current.scrollTop = ref.current.scrollHeight;
	}, [bottom, count, size.height]);

	const rows = Array.from({ length: Math.max(0, last - first) }, (_, index) => row(first + index));
	return html`<div class="virtual" ref=${ref} role=${role} aria-label=${label} tabindex="0" aria-rowcount=${count} onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
		${head && html`<div class="virtual-head" role="presentation">${head}</div>`}
		<div class="virtual-space" role="presentation" style=${{ height: `${count * height}px` }}>
			<div class="virtual-rows" role="presentation" style=${{ transform: `translateY(${first * height}px)` }}>${rows}</div></div>
		${tail}</div>`;
}
