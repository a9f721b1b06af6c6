// Short messages at the edge of the page: what an action did, or why it failed.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { plain } from "./text.js";

const SHOWN_MS = 6_000;
let show = () => {};

export const tell = (text) => show({ text, kind: "done" });
export const complain = (error) => show({ text: error.message, kind: "failed" });

/** Run an action of the user's; tell what it did, or why it failed. Returns whether it worked. */
export async function attempt(action, done) {
  try {
    await action();
  } catch (error) {
    complain(error);
    return false;
  }
  if (done) tell(done);
  return true;
}

export function Notes() {
  const [notes, setNotes] = useState([]);
  useEffect(() => {
    let count = 0;
    show = (note) => {
      const id = (count += 1);
      setNotes((old) => [...old, { ...note, id }].slice(-4));
      setTimeout(() => setNotes((old) => old.filter((each) => each.id !== id)), SHOWN_MS);
    };
  }, []);
  return html`<div class="notes" role="status" aria-live="polite">
    ${notes.map((note) => html`<p key=${note.id} class=${`note ${note.kind}`}>${plain(note.text)}</p>`)}
  </div>`;
}
