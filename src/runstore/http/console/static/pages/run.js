// One run, at any time, and what can be done with it.

import { Ask, attempt, Chips, clock, compact, dim, duration, Facts, Field, go, href, html, isOpen, line, link, Live, Loading, moment, money, number, Problem, setParams, shortId, Status, title, titleOf, toggled, tookOf, useAsked, useEffect, useGet, useKeys, useNow, useRef, useSession, useSettled, useState } from "../kit.js";
import { Question } from "../parts/answer.js";
import { Json, Result } from "../parts/blocks.js";
import { Detail, NotLoaded } from "../parts/detail.js";
import { Events } from "../parts/events.js";
import { Transcript } from "../parts/transcript.js";
import { Waterfall } from "../parts/waterfall.js";
import { RunData } from "../run-data.js";
import { deleteRun, DELETION, FILES, fork, keep, note, steer, stop } from "../runs.js";
import { rowsOf } from "../steps.js";

const TABS = { "": "Steps", transcript: "Transcript", events: "Events", record: "Record" };
const SETTLE_MS = 120; // after the last move of the slider
const NOTABLE_MS = 1_000; // a shorter wait for a place is not shown

function useRun(runId) {
	const [, draw] = useState({});
	const [data] = useState(() => new RunData(runId, draw));
	useEffect(() => {
		data.open();
		return () => data.close();
	}, []);
	return data;
}

/** `{tree, error}`: the run as it is now, or at the time of the slider. Both null: not known yet. */
function useTreeAt(data, at) {
	const wanted = useSettled(at, SETTLE_MS);
	const { data: past, error } = useAsked(wanted && `${wanted}`, (signal) => data.at(wanted, signal));
	const shown = useRef(null); // while the slider moves, the place before stays
	shown.current = at ? past ?? shown.current : null;
	return at ? { tree: error ? null : shown.current, error } : { tree: data.tree, error: null };
}

function Actions({ record, onAsk, onStop }) {
	const session = useSession();
	const owns = session.admin || (session.changes && session.user_id === record.user_id);
	const open = isOpen(record.status);
	return html`<div class="actions">
		${owns && open && html`<button class="danger" disabled=${record.cancel_requested} onClick=${onStop}>${record.cancel_requested ? "Stopping…" : "Stop"}</button>
				<button onClick=${() => onAsk("note")}>Note or message</button>`}
		${session.changes && html`<a class="button" href=${href("start", { from: record.run_id })}>Run again…</a>
			<button onClick=${() => onAsk("fork")}>Fork…</button>`}
		<details class="menu-box"><summary class="button">Keep</summary><div class="menu-list" onClick=${(event) => { event.currentTarget.parentNode.open = false; }}>
			${FILES.map((file) => html`<button onClick=${() => attempt(() => keep(record.run_id, file))}>${file[0]}</button>`)}
			${owns && !open && !record.deleted && html`<button class="danger" onClick=${() => onAsk("delete")}>Delete the run</button>`}
		</div></details>
	</div>`;
}

const actor = ({ user_id: user, key_id: key }) => html`${user}${key && dim(` (key ${key})`)}`;

function Head({ data, record, tree, at, now, ...actions }) {
	const open = at || isOpen(record.status); // so the record does not have its usage, or has that of later
	const shown = at ? { started_at: record.started_at <= tree.at ? record.started_at : null, completed_at: tree.at } : record;
	const waited = Date.parse(shown.started_at ?? shown.completed_at ?? new Date(now).toISOString()) - Date.parse(record.created_at);
	const tokens = open ? tree.input_tokens + tree.output_tokens : record.usage.total_tokens;
	const { agent_name: agent, user_id: user, session_id: session, workspace_id: workspace, parent_run_id: parent, started_by: starter, stopped_by: stopper } = record;
	return html`<header class="run-head">
		<nav class="crumbs dim" aria-label="Place">${link("Runs", "runs")} / <code>${shortId(record.run_id)}</code> ${data.live && html`<${Live} state=${data.live} />`}</nav>
		<div class="run-title"><h1>${titleOf(record, 160)}</h1><${Actions} record=${record} ...${actions} /></div>
		<${Facts} facts=${[
			["state", html`<${Status} status=${open ? tree.status : record.status} stopping=${!at && record.cancel_requested} />`],
			["agent", link(agent, "runs", { agent })],
			["user", link(user, "runs", { user })],
			["session", session && link(line(session, 40), "sessions", { user, session })],
			["workspace", workspace && link(line(workspace, 40), "runs", { workspace })],
			["started by", starter && (starter.key_id || starter.user_id !== user) && actor(starter)],
			["fork of", parent && html`${link(shortId(parent), `runs/${parent}`)} (${link("compare", "compare", { a: parent, b: record.run_id })})`],
			["created", moment(record.created_at)],
			["queued for", waited >= NOTABLE_MS && duration(waited)],
			["first token", tree.first_at && duration(Date.parse(tree.first_at) - Date.parse(record.started_at))],
			["duration", shown.started_at && duration(tookOf(shown, now))],
			["tokens", tokens > 0 && compact(tokens)],
			["cost", tree.currency && money(tree.cost, tree.currency)],
			...(at ? [] : [
				["attempts", record.attempt > 1 && record.attempt],
				["stopped by", stopper && actor(stopper)],
				["reason", record.reason && line(record.reason, 90)],
			]),
		]} />
		${record.error && !at && html`<p class="hint error"><strong>${record.error_code}</strong> ${record.error}</p>`}
		${record.unheard && !at && html`<p class="hint">The agent has not taken the messages added as events ${record.unheard.map(number).join(", ")}.</p>`}
		${record.deleted && html`<p class="hint">This run is deleted. Only admins and auditors see it.</p>`}
	</header>`;
}

function TimeSlider({ head, at, time, onAt }) {
	const value = at ?? head;
	const move = (seq) => onAt(seq >= head ? null : Math.max(1, seq));
	return html`<div class=${`time-slider ${at ? "past" : ""}`} role="group" aria-label="Time">
		<button class="quiet" aria-label="One event back" disabled=${value <= 1} onClick=${() => move(value - 1)}>◂</button>
		<input type="range" min="1" max=${Math.max(head, 1)} value=${value} aria-label="Event" aria-valuetext=${`event ${number(value)} of ${number(head)}`}
			onInput=${(event) => move(event.currentTarget.valueAsNumber)} />
		<button class="quiet" aria-label="One event on" disabled=${!at} onClick=${() => move(value + 1)}>▸</button>
		<span class="place"><strong>${number(value)}</strong> ${dim(`/ ${number(head)}${time ? ` · ${clock(time)}` : ""}`)}</span>
		<button class="more" disabled=${!at} onClick=${() => onAt(null)}>${at ? "Back to now" : "now"}</button>
	</div>`;
}

function NoteDialog({ runId, onClose }) {
	const [kind, setKind] = useState("note");
	const toAgent = kind === "message";
	const add = async ({ text }) => {
		if (text && await attempt(() => (toAgent ? steer : note)(runId, text), toAgent ? "Sent." : "Noted.")) onClose();
	};
	return html`<${Ask} title="Add to the run" action=${toAgent ? "Send" : "Add"} onYes=${add} onClose=${onClose}>
		<${Chips} label="Kind" options=${{ note: "Note", message: "Message to the agent" }} chosen=${kind} onChoose=${setKind} />
		<${Field} id="text" label=${toAgent ? "Message" : "Note"} rows="4" required maxlength="20000" autofocus />
		<p class="dim">${toAgent ? "The agent gets it before its next model call." : "The agent does not see it."}</p><//>`;
}

const ForkDialog = ({ runId, at, onClose }) => html`<${Ask} title="Fork the run" action="Fork" onClose=${onClose}
		onYes=${({ text }) => attempt(async () => go(href(`runs/${(await fork(runId, at, text)).run_id}`)))}>
	<p>A new run begins with the conversation ${at ? `up to event ${at}, or to the message or tool result before it` : "of this one"}.</p>
	<${Field} id="text" label="Message" note="optional" rows="4" maxlength="20000" autofocus />
	<p class="dim">Without one, the model answers again. The time slider chooses an earlier place.</p><//>`;

const DeleteDialog = ({ runId, onClose }) => html`<${Ask} title="Delete the run" action="Delete" danger onClose=${onClose}
		onYes=${async () => (await attempt(() => deleteRun(runId), "Deleted.")) && go(href("runs"))}><p>${DELETION}</p><//>`;

const DIALOGS = { note: NoteDialog, fork: ForkDialog, delete: DeleteDialog };

function More({ data }) {
	if (data.loading) return html`<p class="tail dim">Loading…</p>`;
	if (data.tree.next === null) return null;
	return html`<p class="tail"><button onClick=${() => data.more()}>Load more steps</button> ${dim(`up to event ${data.tree.next} of ${data.head}`)}</p>`;
}

function Record({ runId, at, record }) {
	const { data, error } = useGet(`/runs/${runId}`, { at, include: "schema_warnings" });
	if (error) return html`<${Problem} error=${error} />`;
	return html`<div class="scroll-page"><${Json} value=${data ?? record} /></div>`;
}

function useSteps(tree, chosen, select) {
	const [closed, setClosed] = useState(new Set());
	const move = (by) => () => {
		const found = tree ? rowsOf(tree.roots, closed) : [];
		const index = found.findIndex(({ node }) => node.key === chosen);
		const next = found[Math.min(Math.max(index + by, 0), found.length - 1)];
		if (next) select(next.node);
	};
	const toggle = (node) => setClosed((old) => toggled(old, node.key));
	const foldIf = (isClosed) => () => {
		const node = tree?.byKey.get(chosen);
		if (node && closed.has(node.key) === isClosed) toggle(node);
	};
	const keys = {
		j: [move(1), "the next step"], k: [move(-1), "the step before"],
		ArrowLeft: [foldIf(false), "fold the step"], ArrowRight: [foldIf(true), "unfold the step"],
	};
	return { closed, toggle, keys };
}

export default function RunPage({ runId, params }) {
	const data = useRun(runId);
	const at = Number(params.get("at")) || null;
	const { tree, error: lost } = useTreeAt(data, at);
	const tab = params.get("tab") ?? "";
	const [follow, setFollow] = useState(false);
	const [asking, setAsking] = useState(null);
	const { record } = data;
	const open = record !== null && isOpen(record.status) && !at;
	const now = useNow(open ? 250 : 60_000);
	title(record ? titleOf(record, 60) : "Run");
	useEffect(() => { if (open) setFollow(true); }, [open]);

	const chosen = params.get("step");
	const select = (node) => setParams({ step: node?.key ?? null, tab: null, from: null });
	const { closed, toggle, keys } = useSteps(tree, chosen, select);
	useKeys({
		...keys,
		f: [() => setFollow((old) => !old), "follow the run"],
		Escape: [() => setParams({ step: null, from: null }), "close the step"],
	});

	const problem = record && data.tree ? lost : data.error;
	if (problem) return html`<${Problem} error=${problem} />`;
	if (!record || !tree) return html`<${Loading} />`;
	const node = chosen ? tree.byKey.get(chosen) : null;
	const waiting = open ? [...tree.byKey.values()].filter((each) => each.kind === "question" && each.status === "waiting") : [];
	const following = follow && open;
	const head = Math.max(data.head, at ?? 0);
	const onStop = () => attempt(() => stop(runId).then(() => data.reload()), "The run is asked to stop.");
	const Asking = DIALOGS[asking];
	const more = html`<${More} data=${data} />`;
	return html`<section class="page fills run-page">
		<${Head} data=${data} record=${record} tree=${tree} at=${at} now=${now} onAsk=${setAsking} onStop=${onStop} />
		${data.error && html`<p class="hint error">${data.error.message}</p>`}
		${waiting.map((each) => html`<section class="hint ask" key=${each.key}><h2>The run waits for an answer</h2><${Question} runId=${runId} request=${each.data} /></section>`)}
		<div class="bar-line">
			<div class="tabs" role="tablist" aria-label="Views">${Object.entries(TABS).map(([name, label]) => html`<button role="tab" aria-selected=${tab === name} onClick=${() => setParams({ tab: name, from: null })}>${label}</button>`)}</div>
			${open && tab !== "record" && html`<button class="more" aria-pressed=${follow} onClick=${() => setFollow(!follow)}>${follow ? "● following" : "○ follow"}</button>`}
			<${TimeSlider} head=${head} at=${at} time=${at && tree.at} onAt=${(seq) => setParams({ at: seq })} />
		</div>
		${tree.after > 0 && !at && html`<p class="hint">Steps before event ${tree.after} are not loaded. <button class="more" onClick=${() => data.fromStart()}>Load them</button></p>`}
		${at && tree.after > 0 && html`<p class="hint">Steps after event ${tree.after} and up to event ${at}.</p>`}
		${tab === "" && html`
			${!node && !at && record.result != null && html`<${Result} result=${record.result} />`}
			<div class=${`split ${node ? "open" : ""}`}>
				<${Waterfall} tree=${tree} now=${at ? Date.parse(tree.at ?? record.created_at) : now} closed=${closed} selected=${chosen}
					onToggle=${toggle} onSelect=${select} bottom=${following && !chosen} tail=${more} />
				${node && html`<${Detail} key=${node.key} node=${node} unread=${tree.unread} data=${data} now=${now} onClose=${() => select(null)} />`}
			</div>`}
		${tab === "transcript" && html`<${Transcript} tree=${tree} data=${data} result=${at ? null : record.result} follow=${following} onFollow=${setFollow} onSelect=${select} tail=${html`<${NotLoaded} unread=${tree.unread} />${more}`} />`}
		${tab === "events" && html`<${Events} runId=${runId} head=${at ?? head} from=${Number(params.get("from")) || null} follow=${following} onFrom=${(seq) => setParams({ from: seq })} />`}
		${tab === "record" && html`<${Record} runId=${runId} at=${at} record=${record} />`}
		${Asking && html`<${Asking} runId=${runId} at=${at} onClose=${() => setAsking(null)} />`}
	</section>`;
}
