// Runs as data: a page of the list, its live changes, and the actions on a run.

import { call, get, post, remove } from "./api.js";

const PAGE = 200; // runs of a page
const CHANGES = "lifecycle.*,cancel.requested,run.deleted";
const ENDINGS = { "lifecycle.completed": "success", "lifecycle.failed": "error", "lifecycle.cancelled": "stopped" };
const HIERARCHY = "hierarchy:";
const SPAN_MS = 600_000;
const AT_ONCE = 4; // requests of an action on several runs

/** A page of runs, `{data, totals, next}`. Without the projection `usage`, as the plain list has them. */
export async function listRuns(query, session, { after, limit = PAGE, totals = true, signal } = {}) {
  const asked = { deleted: "false", ...query, after, limit, totals: String(totals) };
  if (!session.readsAll) asked.user_id = session.user_id;
  try {
    return await get("/audit/runs", asked, signal);
  } catch (error) {
    if (error.code !== "projection_not_built") throw error;
    const { user_id, agent, session_id, status, since, until } = asked;
    const page = await get("/runs", { user_id, agent, session_id, status, since, until, after, limit }, signal);
    return { ...page, data: page.data.map(fromRecord), totals: null };
  }
}

/** A run record in the form of the list. */
export function fromRecord(record) {
  const { agent_name: agent, usage } = record;
  return { ...record, agent, title: textOf(record.input), tokens: usage.total_tokens ?? 0, cost: 0, currency: "" };
}

/** The text of an input: itself, or that of its content blocks. */
export function textOf(input) {
  if (typeof input === "string") return input;
  if (Array.isArray(input)) return input.map((block) => block?.text ?? "").filter(Boolean).join(" ");
  return input === null || input === undefined ? "" : JSON.stringify(input);
}

/** The stream that tells of changes of the runs that the user may see. */
export function changesOf(session) {
  if (!session.readsAll) return { path: "/stream", query: { types: CHANGES } };
  // What happened just before is sent again: clocks differ, and a change twice is the same change. Whole spans of
  // time: the audit log records each different question of an admin.
  const since = Math.floor((Date.now() - 10_000) / SPAN_MS) * SPAN_MS;
  return { path: "/audit/events/stream", query: { types: CHANGES, since: new Date(since).toISOString() } };
}

/** A run of the list after an event; the same object if the event changes nothing that is shown. */
export function changed(run, event) {
  if (event.type in ENDINGS) {
    const error = event.type === "lifecycle.failed" ? event.data.message : null;
    return { ...run, status: ENDINGS[event.type], completed_at: event.at, error };
  }
  if (event.type === "lifecycle.started" && run.status !== "running" && !run.completed_at) {
    return { ...run, status: "running", started_at: run.started_at ?? event.at };
  }
  if (event.type === "cancel.requested") return { ...run, cancel_requested: true };
  if (event.type === "run.deleted") return null;
  return run;
}

/** The run of a `lifecycle.queued` event. */
export function begun(event) {
  const { agent, user_id, session_id = null, input } = event.data;
  return {
    run_id: event.run_id, agent, user_id, session_id, status: "queued", created_at: event.at, started_at: null, completed_at: null,
    title: textOf(input), tokens: 0, cost: 0, currency: "", cancel_requested: false, error: null,
  };
}

export const stop = (runId, reason) => post(`/runs/${runId}/stop`, reason ? { reason } : undefined);
export const deleteRun = (runId) => remove(`/runs/${runId}`);
export const note = (runId, text) => post(`/runs/${runId}/events`, { type: "custom.note", data: { text } });

/** Give a message to the agent of a run under way, before its next model call. */
export const steer = (runId, text) => post(`/runs/${runId}/inputs`, { content: text });

/** Start a run with the conversation of another one up to an event, or to its end; returns the new run's id. */
export async function fork(runId, at, text) {
  const forked = await post(`/runs/${runId}/fork`, { at: at ?? undefined, input: text || undefined });
  return forked.run_id;
}

/** Start an agent; returns the run's record. */
export async function start(agent, { input, code, session_id, metadata, workspace_id, multitask_strategy }) {
  const options = { session_id: session_id || undefined, workspace_id: workspace_id || undefined, metadata, multitask_strategy };
  const once = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  if (agent.startsWith(HIERARCHY)) {
    const body = { hierarchy_id: agent.slice(HIERARCHY.length), task: textOf(input), ...options };
    return (await post("/api/executor/v1/runs/start", body, once)).data;
  }
  const body = agent === "run-code" ? { code, input, ...options } : { input, ...options };
  return post(`/agents/${encodeURIComponent(agent)}/start`, body, once);
}

/** What a repeat of this run starts with. */
export function startOf(record) {
  const { agent_name: agent, input, session_id, metadata, workspace_id } = record;
  const code = agent === "run-code" ? { code: input?.code, input: input?.input } : { input };
  return { agent, body: { ...code, session_id, workspace_id, metadata } };
}

export async function retry(runId) {
  const { agent, body } = startOf(await call(`/runs/${runId}`));
  return start(agent, body);
}

/** Do the same to several runs; returns how many worked, and the first error. */
export async function toEach(runIds, action) {
  const left = [...runIds];
  let worked = 0;
  let error = null;
  const worker = async () => {
    while (left.length) {
      try {
        await action(left.shift());
        worked += 1;
      } catch (problem) {
        error ??= problem;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return { worked, error };
}
