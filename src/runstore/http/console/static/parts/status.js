// The state of a run or a step: a colour, and always a word.

import { html } from "../vendor/htm-preact.js";

export const STATUSES = ["queued", "running", "waiting", "success", "error", "stopped"];
const WORDS = {
  queued: "queued", running: "running", waiting: "waiting", success: "done", error: "failed",
  stopped: "stopped", stopping: "stopping", discarded: "discarded", lost: "no end", failed: "failed",
};

export const wordOf = (status) => WORDS[status] ?? status;
export const isOpen = (status) => status === "queued" || status === "running" || status === "waiting";

/** `stopping`: a stop was requested, and the run has not ended. `word`: instead of the state's own. */
export function Status({ status, stopping = false, word }) {
  const shown = stopping && isOpen(status) ? "stopping" : status;
  return html`<span class=${`status ${shown}`}><i aria-hidden="true"></i>${word ?? wordOf(shown)}</span>`;
}
