// Server-sent events over fetch, since an EventSource cannot send a key as a header.

import { ApiError, errorOf, request } from "./api.js";

const FIRST_WAIT_MS = 500; // before the first reconnect; it doubles up to
const LONGEST_WAIT_MS = 15_000;
const SILENCE_MS = 45_000; // without a byte, after which the connection counts as lost: the server beats every 15 s
const FINAL = new Set([400, 401, 403, 404, 410]); // a reconnect would get the same answer

/** Splits a text stream into events `{id, type, data}`; `data` is parsed JSON. */
export class Parser {
  #rest = "";
  #id = "";
  #type = "";
  #data = [];

  /** The events that are complete with this text. */
  push(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    const found = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) found.push({ id: this.#id, type: this.#type, data: JSON.parse(this.#data.join("\n")) });
        this.#type = "";
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue; // a heartbeat
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "id") this.#id = value;
      else if (name === "event") this.#type = value;
      else if (name === "data") this.#data.push(value);
    }
    return found;
  }
}

/**
 * Follow a stream until it ends, the signal aborts, or the server refuses it. Connects again when it is cut.
 *
 * onEvents: called with each batch of events, in order, each event once.
 * onState: called with "live", "lost", "ended", or an ApiError that is final.
 * ends: whether an event is the last one.
 */
export async function follow(path, { query, after, signal, onEvents, onState = () => {}, ends = () => false }) {
  let last = after;
  let wait = FIRST_WAIT_MS;
  while (!signal.aborted) {
    const connection = new AbortController();
    const abort = () => connection.abort();
    signal.addEventListener("abort", abort);
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE_MS);
    };
    try {
      const headers = { Accept: "text/event-stream" };
      if (last !== undefined && last !== "") headers["Last-Event-ID"] = String(last);
      heard();
      const response = await request(path, { query, headers, signal: connection.signal, cache: "no-store" });
      if (response.status === 204) return onState("ended");
      if (!response.ok) throw await errorOf(response);
      onState("live");
      const parser = new Parser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        heard();
        const events = parser.push(value);
        if (!events.length) continue;
        wait = FIRST_WAIT_MS;
        last = events.at(-1).id;
        onEvents(events.map((event) => event.data));
        if (events.some((event) => ends(event.data))) return onState("ended");
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && FINAL.has(error.status)) return onState(error);
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", abort);
      connection.abort();
    }
    if (signal.aborted) return;
    onState("lost");
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }
}

/** Wait, but no longer than until the network or the page comes back. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}
