// The events of one run, loaded in pages, and followed while the run is open.
//
// Finished calls of models repeat their text in a message, so only other streamed text is loaded: of open calls, and of
// agents that are generators. A run of 100,000 tokens opens as fast as a short one. A run of many steps opens with its first steps, or its last ones
// while it is open; the rest is loaded on request.

import { get } from "./api.js";
import { Fold, isEnding, isStreamed, STRUCTURE } from "./fold.js";
import { isOpen } from "./parts/status.js";
import { follow } from "./stream.js";

const PAGE = 1_000; // events of a request, the most that the API gives
const AT_FIRST = 3_000; // events without streamed text that are loaded before the user asks for more
const SHORT_RUN = 10_000; // events up to which an open run is loaded from its beginning
const UNSAID_PAGES = 20; // pages of streamed text that are read for the open calls
const EMPTY_PAGES = 200; // pages without a fitting event that are read in search of one

export class RunData {
  constructor(runId, onChange) {
    this.runId = runId;
    this.record = null;
    this.error = null;
    this.events = []; // without streamed text, in order
    this.fold = new Fold(runId);
    this.first = 0; // events up to this seq are not loaded, at the beginning
    this.next = 0; // where loading goes on; null: everything is loaded
    this.head = 0;
    this.live = "";
    this.loading = true;
    this.version = 0;
    this.#onChange = onChange;
  }

  #onChange;
  #abort = new AbortController();
  #frame = 0;
  #following = false;

  close() {
    this.#abort.abort();
    cancelAnimationFrame(this.#frame);
  }

  async open() {
    try {
      this.record = await this.#get("");
      this.head = this.record.last_seq;
      if (isOpen(this.record.status) && this.head > SHORT_RUN) this.#startAt(this.head - AT_FIRST);
      this.#changed();
      await this.more();
      if (this.next === null) await this.#finish();
    } catch (error) {
      this.#failed(error);
    }
    this.loading = false;
    this.#changed();
  }

  /** Load the following events, up to AT_FIRST of them. */
  async more() {
    this.loading = true;
    this.#changed();
    const wanted = this.events.length + AT_FIRST;
    for (let empty = 0; this.next !== null && this.events.length < wanted && empty < EMPTY_PAGES; ) {
      const page = await this.#page(this.next, { types: STRUCTURE });
      empty = page.data.length ? 0 : empty + 1;
      this.events.push(...page.data);
      this.fold.addAll(page.data);
      this.next = page.next;
      this.#changed();
    }
    this.loading = false;
    if (this.next === null && this.events.length > AT_FIRST) await this.#finish();
  }

  /** Begin again at the run's first event. */
  async fromStart() {
    this.#startAt(0);
    await this.more();
  }

  #startAt(seq) {
    this.first = this.next = seq;
    this.events = [];
    this.fold = new Fold(this.runId);
    if (seq) this.fold.status = this.record.status;
  }

  /** The run as it was after an event: a fold with the text of the calls that were open then. */
  async at(seq, signal) {
    if (this.next !== null && seq > this.next) return this.#before(seq, signal);
    return this.#folded(new Fold(this.runId), this.events.filter((event) => event.seq <= seq), this.first, seq, signal);
  }

  /** The same for an event that is not loaded: with the last steps before it, and the run's state then. */
  async #before(seq, signal) {
    const from = Math.max(0, seq - AT_FIRST);
    const record = await this.#get("", { at: seq }, signal);
    const events = [];
    for (let next = from; next !== null && next < seq; ) {
      const page = await this.#page(next, { types: STRUCTURE }, signal);
      events.push(...page.data.filter((event) => event.seq <= seq));
      next = page.next;
    }
    const begin = () => Object.assign(new Fold(this.runId), { from, status: record.status });
    return this.#folded(begin(), events, from, seq, signal, begin);
  }

  async #folded(fold, known, first, seq, signal, begin = () => new Fold(this.runId)) {
    fold.addAll(known);
    const after = Math.max(fold.unsaid, first);
    if (after >= seq) return fold;
    const { text, cut } = await this.#text(after, seq, signal);
    if (!text.length) return Object.assign(fold, { cut });
    const rest = [...known.filter((event) => event.seq > after), ...text].sort((a, b) => a.seq - b.seq);
    return Object.assign(begin().addAll(known.filter((event) => event.seq <= after)).addAll(rest), { cut });
  }

  async #text(after, upto, signal) {
    const text = [];
    let next = after;
    for (let pages = 0; next !== null && next < upto && pages < UNSAID_PAGES; pages += 1) {
      const page = await this.#page(next, { types: "llm.token,llm.reasoning" }, signal);
      text.push(...page.data.filter((event) => event.seq <= upto && isStreamed(event)));
      next = page.next;
    }
    return { text, cut: next !== null && next < upto ? { from: next, to: upto } : null };
  }

  /** Once all is loaded: read the text that no message repeats, and follow a run that is open. */
  async #finish() {
    if (this.#following) return;
    const head = Math.max(this.head, this.fold.last);
    this.fold = await this.at(head, this.#abort.signal);
    this.#changed();
    if (this.fold.ending) return;
    this.#following = true;
    follow(`/runs/${this.runId}/stream`, {
      after: head, signal: this.#abort.signal, ends: isEnding,
      onEvents: (events) => {
        for (const event of events) {
          this.fold.add(event);
          if (!isStreamed(event)) this.events.push(event);
        }
        this.head = events.at(-1).seq;
        this.#changed();
        if (events.some(isEnding)) this.reload();
      },
      onState: (state) => {
        if (state instanceof Error) this.error = state;
        else this.live = state;
        this.#changed();
      },
    });
  }

  /** Read the record again: its end, its result. */
  async reload() {
    try {
      this.record = await this.#get("");
      this.head = Math.max(this.head, this.record.last_seq);
    } catch (error) {
      this.#failed(error);
    }
    this.#changed();
  }

  #get(path, query, signal = this.#abort.signal) {
    return get(`/runs/${encodeURIComponent(this.runId)}${path}`, query, signal);
  }

  #page(after, query, signal) {
    return this.#get("/events", { after, limit: PAGE, ...query }, signal);
  }

  #failed(error) {
    if (error.name !== "AbortError") this.error = error;
  }

  #changed() {
    this.version += 1;
    if (!this.#frame) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#onChange(this.version);
      });
    }
  }
}
