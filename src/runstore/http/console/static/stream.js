// Server-sent events over fetch, since an EventSource cannot send a key as a header.

import { answerOf, ApiError } from "./api.js";

const FIRST_WAIT_MS = 500; // before the first reconnect; it doubles up to
const LONGEST_WAIT_MS = 15_000;
const SILENCE_MS = 45_000; // without a byte, after which the connection counts as lost: the server beats every 15 s
const FINAL = new Set([400, 401, 403, 404, 410]); // a reconnect would get the same answer

/** The events of a body, `{id, data}`, as batches of those that arrive together; `data` is parsed JSON. */
async function* batches(body, heard) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	let id = "";
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		heard();
		const lines = (rest + value).split("\n");
		rest = lines.pop();
		const found = [];
		for (const line of lines) {
			const [, name, text] = /^([^:]*):? ?(.*)$/.exec(line);
			if (name === "id") id = text;
			else if (name === "data") found.push({ id, data: JSON.parse(text) }); // after its id, in one line
		}
		if (found.length) yield found;
	}
}

/**
 * Follow the stream of a path until it ends, the signal aborts, or the server refuses it. Connects again when it is cut.
 * onEvents: called with batches of events, each event once. onState: with "live", "lost", "ended" or a final ApiError.
 */
export async function follow({ path, query, after, signal, onEvents, onState, ends = () => false }) {
	let last = after;
	let wait = FIRST_WAIT_MS;
	while (!signal.aborted) {
		const connection = new AbortController();
		let silence;
		const heard = () => {
			clearTimeout(silence);
			silence = setTimeout(() => connection.abort(), SILENCE_MS);
		};
		try {
			heard();
			const headers = { Accept: "text/event-stream", ...(last === undefined ? {} : { "Last-Event-ID": String(last) }) };
			const response = await answerOf(path, { query, headers, signal: AbortSignal.any([signal, connection.signal]), cache: "no-store" });
			if (response.status === 204) return onState("ended");
			onState("live");
			for await (const events of batches(response.body, heard)) {
				wait = FIRST_WAIT_MS;
				last = events.at(-1).id || last;
				onEvents(events.map((event) => event.data));
				if (events.some((event) => ends(event.data))) return onState("ended");
			}
		} catch (error) {
			if (signal.aborted) return undefined;
			if (error instanceof ApiError && FINAL.has(error.status)) return onState(error);
		} finally {
			clearTimeout(silence);
			connection.abort();
		}
		if (signal.aborted) return undefined;
		onState("lost");
		await pause(wait * (0.75 + Math.random() / 2), signal);
		wait = Math.min(wait * 2, LONGEST_WAIT_MS);
	}
	return undefined;
}

const pause = (ms, signal) => new Promise((resolve) => {
	setTimeout(resolve, ms);
	addEventListener("online", resolve, { once: true, signal });
	signal.addEventListener("abort", resolve);
});
