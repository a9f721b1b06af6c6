// Short messages at the edge of the page: what an action did, or why it failed.

import { useEffect, useState } from "./vendor/htm-preact.js";
import { html } from "./text.js";

const SHOWN_MS = 6_000;
let show = () => {};
let count = 0;

export const tell = (text, kind = "done") => show({ text, kind, id: (count += 1) });
export const complain = (error) => tell(error.message, "failed");

/** Run an action; tell what it did, or why it failed. Returns whether it worked. */
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
		show = (note) => {
			setNotes((old) => [...old, note].slice(-4));
			setTimeout(() => setNotes((old) => old.filter((each) => each !== note)), SHOWN_MS);
		};
	}, []);
	return html`<div class="notes" role="status" aria-live="polite">
		${notes.map(({ id, kind, text }) => html`<p key=${id} class=${`note ${kind}`}>${text}</p>`)}</div>`;
}
