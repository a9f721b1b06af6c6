// Runs as data: a page of the list, its live changes, and the actions on a run.

import { answerOf, get, inputText, post, remove } from "./kit.js";
import { ENDINGS } from "./steps.js";

const PAGE = 200; // runs of a page
const CHANGES = "lifecycle.*,cancel.requested,input.*,run.deleted";
const HIERARCHY = "hierarchy:";
const SPAN_MS = 600_000;
export const DELETION = "A deleted run leaves all lists. Its events stay in the database until they are purged.";

/** Whether a query is for the runs of all members of a workspace, which has no reports. */
export const isOfWorkspace = (query, session) => Boolean(query.workspace_id) && !session.readsAll;

/** A page of runs, `{data, totals, next}`. Without the projection `usage`, or of a workspace, as the plain list has them. */
export async function listRuns(query, session, { after, totals, signal }) {
	const { text, sort, error_code, ...plainly } = { ...query, after, limit: PAGE };
	const own = session.readsAll ? {} : { user_id: session.user_id };
	try {
		if (!isOfWorkspace(query, session)) return await get("/audit/runs", { deleted: "false", ...query, ...own, after, limit: PAGE, totals: String(totals) }, signal);
	} catch (error) {
		if (error.code !== "projection_not_built") throw error;
		Object.assign(plainly, own);
	}
	const page = await get("/runs", plainly, signal);
	return { ...page, data: page.data.map(fromRecord), totals: null };
}

const fromRecord = (record) => ({ ...record, agent: record.agent_name, title: inputText(record.input), tokens: record.usage.total_tokens ?? 0 });

export function changesOf(session) {
	if (!session.readsAll) return { path: "/stream", query: { types: CHANGES } };
	// Clocks differ, so what just happened comes again. Whole spans: the audit log records each different question.
	const since = Math.floor((Date.now() - 10_000) / SPAN_MS) * SPAN_MS;
	return { path: "/audit/events/stream", query: { types: CHANGES, since: new Date(since).toISOString() } };
}

export function changed(run, event) {
	if (event.type in ENDINGS) {
		return { ...run, status: ENDINGS[event.type], completed_at: event.at, error: event.type === "lifecycle.failed" ? event.data.message : null };
	}
	if (event.type === "lifecycle.started" && run.status === "queued") {
		return { ...run, status: "running", started_at: run.started_at ?? event.at };
	}
	if (event.type === "cancel.requested") return { ...run, cancel_requested: true };
	return event.type === "run.deleted" ? null : run;
}

export const stop = (runId) => post(`/runs/${runId}/stop`);
export const deleteRun = (runId) => remove(`/runs/${runId}`);
export const note = (runId, text) => post(`/runs/${runId}/events`, { type: "custom.note", data: { text } });
export const steer = (runId, text) => post(`/runs/${runId}/inputs`, { content: text });
export const fork = (runId, at, text) => post(`/runs/${runId}/fork`, { at, input: text || null });

export async function start(agent, { input, code, ...options }) {
	const once = { "Idempotency-Key": crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
	if (agent.startsWith(HIERARCHY)) {
		const body = { hierarchy_id: agent.slice(HIERARCHY.length), task: inputText(input), ...options };
		return (await post("/api/executor/v1/runs/start", body, once)).data;
	}
	return post(`/agents/${encodeURIComponent(agent)}/start`, { code: agent === "run-code" ? code : undefined, input, ...options }, once);
}

export function startOf({ agent_name: agent, input, session_id, metadata, workspace_id }) {
	return { agent, body: { ...(agent === "run-code" ? input : { input }), session_id, metadata, workspace_id } };
}

export async function retry(runId) {
	const { agent, body } = startOf(await get(`/runs/${runId}`));
	return start(agent, body);
}

export async function toEach(runIds, action) {
	const done = await Promise.allSettled(runIds.map(action));
	const failed = done.filter(({ status }) => status === "rejected");
	return { worked: done.length - failed.length, error: failed[0]?.reason };
}

/** Files of a run: name, route, media type and suffix. */
export const FILES = [
	["Events, as NDJSON", "events", "application/x-ndjson", "ndjson"],
	["Transcript, as HTML", "transcript", "text/html", "html"],
	["Transcript, as Markdown", "transcript", "text/markdown", "md"],
];

export async function keep(runId, [, route, type, suffix]) {
	const response = await answerOf(`/runs/${runId}/${route}`, { headers: { Accept: type }, cache: "no-store" });
	const link = document.createElement("a");
	link.href = URL.createObjectURL(await response.blob());
	link.download = `${runId}.${suffix}`;
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
