// A list that keeps only the visible rows in the document, so that 100,000 rows scroll as 100 do.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { useSize } from "../hooks.js";

const MARGIN = 12; // rows above and below that are ready

/**
 * count: how many rows there are. height: of each, in px. row: renders the row at an index.
 * selected: an index to keep in view. bottom: keep the end in view. onRange: called with the visible rows' first
 * and last index. head: what stays above the rows. label: what the list is of.
 */
export function Virtual({ count, height, row, selected = -1, bottom = false, onRange, head, label, role = "list", tail }) {
  const [ref, size] = useSize();
  const [top, setTop] = useState(0);
  const first = Math.max(0, Math.floor(top / height) - MARGIN);
  const last = Math.min(count, Math.ceil((top + size.height) / height) + MARGIN);
  const told = useRef("");

  useEffect(() => {
    const key = `${first}-${last}-${count}`;
    if (size.height && told.current !== key) {
      told.current = key;
      onRange?.(first, last);
    }
  });
  useLayoutEffect(() => {
    if (selected < 0 || !size.height) return;
    const element = ref.current;
    const above = head ? element.querySelector(".virtual-head").offsetHeight : 0;
    const from = selected * height;
    if (from < element.scrollTop) element.scrollTop = from;
    else if (from + height + above > element.scrollTop + size.height) {
      element.scrollTop = from + height + above - size.height;
    }
  }, [selected, size.height > 0]);
  useLayoutEffect(() => {
    if (bottom) ref.current.scrollTop = ref.current.scrollHeight;
  }, [bottom, count, size.height]);

  const rows = [];
  for (let index = first; index < last; index += 1) rows.push(row(index));
  return html`<div class="virtual" ref=${ref} role=${role} aria-label=${label} tabindex="0"
      aria-rowcount=${role === "table" || role === "treegrid" ? count : undefined}
      onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
    ${head && html`<div class="virtual-head" role="presentation">${head}</div>`}
    <div class="virtual-space" role="presentation" style=${{ height: `${count * height}px` }}>
      <div class="virtual-rows" role="presentation" style=${{ transform: `translateY(${first * height}px)` }}>${rows}</div>
    </div>
    ${tail}
  </div>`;
}
