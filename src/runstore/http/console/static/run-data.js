// One run: its record and its steps. Of an open run, streamed text is added as it comes; after any other event the
// server is asked for the steps that have changed.

import { get, isOpen } from "./kit.js";
import { isEnding, isStreamed, say, treeOf } from "./steps.js";
import { follow } from "./stream.js";

const FIRST = 500; // events that are folded for the first sight
const STEP = 3_000; // then, and more on request
const MOST = 20_000; // that the server folds at once; beyond, the first ones are left out
const MOST_PAST = 10_000; // for the run at an earlier time
const SOON_MS = 100; // between an event and the question for what it changed
const REST = 4; // times as long as the last answer took: the server folds all loaded steps for each
const AGAIN_MS = 1_000; // after a question that failed

export class RunData {
	record = null;
	error = null;
	tree = null;
	head = 0;
	live = "";
	loading = true;
	#after; // events up to this seq are left out; undefined: as the server chooses
	#limit = FIRST;
	#cut; // where the steps ended before: where they end there again, by their bytes, a limit does not help
	#said = []; // streamed text since the last answer
	#news = 0; // the seq of the last event that is no streamed text
	#timer = null;
	#following = false;
	#abort = new AbortController();
	#frame = 0;
	#took = 0; // ms of the last answer

	constructor(runId, onChange) {
		this.runId = runId;
		this.onChange = onChange;
	}

	close() {
		this.#abort.abort();
		clearTimeout(this.#timer);
		cancelAnimationFrame(this.#frame);
	}

	async open() {
		await this.reload();
		await this.#load();
	}

	reload() {
		return this.#trying(async () => {
			this.record = await this.#get("");
			this.head = Math.max(this.head, this.record.last_seq);
		});
	}

	more() {
		if (this.#limit < MOST && this.tree.next !== this.#cut) this.#limit = this.#limit < STEP ? STEP : Math.min(this.#limit + STEP, MOST);
		else [this.#after, this.#limit] = [this.tree.next, STEP];
		this.#cut = this.tree.next;
		return this.#load();
	}

	fromStart() {
		[this.#after, this.#limit] = [0, STEP];
		return this.#load();
	}

	async at(seq, signal) {
		return treeOf(await this.#get("/steps", { at: seq, limit: MOST_PAST }, signal));
	}

	/** Read the steps; with `changed`, only those that have changed since. */
	async #load(changed) {
		this.loading = changed === undefined;
		this.#changed();
		await this.#trying(async () => {
			const began = Date.now();
			const page = await this.#get("/steps", { after: this.#after, limit: this.#limit, changed });
			this.error = null;
			this.#took = Date.now() - began;
			this.#after = page.after;
			this.#said = this.#said.filter((event) => event.seq > page.upto);
			this.tree = treeOf(page, changed ? this.tree : undefined);
			for (const event of this.#said) say(this.tree, event);
			this.head = Math.max(this.head, page.upto);
			if (page.next === null) this.#follow();
		});
		this.loading = false;
		this.#changed();
		if (this.tree?.next && (this.#following || this.#limit < STEP)) await this.more(); // an open run grows beyond the limit
	}

	#follow() {
		if (this.#following || !isOpen(this.record.status) || this.tree.ended) return;
		this.#following = true;
		const onEvents = (events) => {
			for (const event of events.filter(isStreamed)) {
				this.#said.push(event);
				say(this.tree, event);
			}
			this.head = events.at(-1).seq;
			this.#changed();
			this.#news = events.findLast((event) => !isStreamed(event))?.seq ?? this.#news;
			if (this.#news > this.tree.upto) this.#timer ??= setTimeout(() => this.#refresh(), this.#rest());
		};
		const onState = (state) => {
			if (state instanceof Error) this.error = state;
			else this.live = state;
			this.#changed();
		};
		follow({ path: `/runs/${this.runId}/stream`, after: this.tree.upto, signal: this.#abort.signal, ends: isEnding, onEvents, onState });
	}

	async #refresh() {
		await this.#load(this.tree.upto);
		if (this.tree.ended) await this.reload();
		const again = (this.#news > this.tree.upto || (this.tree.ended && isOpen(this.record.status))) && !this.#abort.signal.aborted;
		this.#timer = again ? setTimeout(() => this.#refresh(), this.error ? AGAIN_MS : this.#rest()) : null;
	}

	#rest() {
		return Math.max(SOON_MS, REST * this.#took);
	}

	#get(path, query, signal = this.#abort.signal) {
		return get(`/runs/${encodeURIComponent(this.runId)}${path}`, query, signal);
	}

	async #trying(action) {
		try {
			await action();
		} catch (error) {
			if (error.name !== "AbortError") this.error = error;
		}
		this.#changed();
	}

	#changed() {
		this.#frame ||= requestAnimationFrame(() => {
			this.#frame = 0;
			this.onChange({});
		});
	}
}
