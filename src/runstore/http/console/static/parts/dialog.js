// A dialog over the page. The browser keeps the focus inside of it, and Escape closes it.

import { html, useEffect, useRef } from "../vendor/htm-preact.js";

export function Dialog({ title, onClose, children, wide = false }) {
  const ref = useRef(null);
  useEffect(() => {
    const dialog = ref.current;
    dialog.showModal();
    return () => dialog.close();
  }, []);
  const outside = (event) => event.target === ref.current && onClose();
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-label=${title} onClick=${outside}
      onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <div class="dialog">
      <header><h2>${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button></header>
      ${children}
    </div>
  </dialog>`;
}

/** A question whose answer does something that cannot be undone. */
export function Confirm({ title, text, action, onYes, onClose }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${text}</p>
    <footer><button type="button" onClick=${onClose}>Cancel</button>
      <button type="button" class="danger" onClick=${() => { onClose(); onYes(); }}>${action}</button></footer>
  <//>`;
}
