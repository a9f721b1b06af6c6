// Sessions: a list, and each as the conversation that it is.

import { Ago, compact, counted, dim, duration, Empty, failed, fieldsOf, href, html, line, link, number, Page, setParams, Status, Table, titleOf, tookOf, useGet, useSession } from "../kit.js";
import { Blocks } from "../parts/blocks.js";

const RUNS = 100; // of a session, newest first, that are shown at once
const PAGE = 1_000; // sessions, likewise
const AGAIN_MS = 4_000; // between two looks

function List({ user, params }) {
	const session = useSession();
	const found = useGet("/sessions", { user_id: user, limit: PAGE }, AGAIN_MS);
	const columns = [
		["Session", (row) => html`<a class="strong" href=${href("sessions", { user: row.user_id, session: row.session_id })}>${line(row.title) || "no title"}</a><br /><code class="dim">${line(row.session_id, 60)}</code>`],
		["Runs", (row) => row.runs, "num"],
		["State", (row) => html`${row.open > 0 && html`<${Status} status="running" />`} ${row.failed > 0 && failed(`${row.failed} failed`)} ${row.stopped > 0 && dim(`${row.stopped} stopped`)}`],
		["Last", (row) => html`<${Ago} at=${row.last_at} />`, "num"],
	];
	const head = session.readsAll && html`<form class="inline" onSubmit=${(event) => setParams(fieldsOf(event), { replace: false })}><label for="user" class="dim">User</label>
		<input id="user" name="user" defaultValue=${params.get("user") ?? ""} placeholder=${session.user_id} maxlength="255" /></form>`;
	return html`<${Page} name="Sessions" totals=${`of ${user}`} head=${head} found=${found}
		empty=${found.data?.data.length === 0 && html`<${Empty} title="No sessions"><p class="dim">A run belongs to a session if its start names one: <code>session_id</code>.</p><//>`}
		show=${({ data, next }) => html`<${Table} columns=${columns} rows=${data} />${next && html`<p class="center dim">Only the last ${number(PAGE)} sessions are shown.</p>`}`} />`;
}

function Turn({ run }) {
	const large = (part) => html`<p class="dim">a large ${part}; ${link("open the run", `runs/${run.run_id}`)}</p>`;
	const { truncated = [], error, usage: { total_tokens: tokens } } = run;
	const text = run.result?.text;
	return html`<div class="turn">
		<div class="entry input"><header><span class="who">${run.user_id}</span><${Ago} at=${run.created_at} /></header>
			${truncated.includes("input") ? large("input") : html`<${Blocks} value=${run.input} raw />`}</div>
		<div class="entry said"><header><span class="who">${run.agent_name}</span><${Status} status=${run.status} stopping=${run.cancel_requested} />
				${link("open", `runs/${run.run_id}`)}
				<time>${run.started_at && duration(tookOf(run, Date.now()))}${tokens > 0 && ` · ${compact(tokens)} tokens`}</time></header>
			${text ? html`<${Blocks} value=${text} />` : error ? html`<p class="failed">${error}</p>` : truncated.includes("result") && large("answer")}
		</div></div>`;
}

function Conversation({ user, sessionId }) {
	const session = useSession();
	const of = session.readsAll ? user : null;
	const found = useGet("/runs", { user_id: of, session_id: sessionId, limit: RUNS }, AGAIN_MS);
	const runs = [...(found.data?.data ?? [])].reverse();
	const head = html`<a class="button" href=${href("runs", { session: sessionId, user: of })}>As a list</a>
		${session.changes && user === session.user_id && html`<a class="button primary" href=${href("start", { session: sessionId, agent: runs.at(-1)?.agent_name })}>Go on</a>`}`;
	return html`<${Page} name=${runs.length ? titleOf(runs[0], 120) : line(sessionId)} totals=${`${counted(runs.length, "run")} of ${user}`} head=${head}
			crumbs=${html`${link("Sessions", "sessions", { user: of })} / <code>${line(sessionId, 60)}</code>`}
		found=${found} empty=${!runs.length && html`<${Empty} title="No runs in this session" />`}
		show=${({ next }) => html`<div class="column">${next && html`<p class="center dim">Only the last ${RUNS} runs are shown.</p>`}
			${runs.map((run) => html`<${Turn} key=${run.run_id} run=${run} />`)}</div>`} />`;
}

export default function Sessions({ params }) {
	const session = useSession();
	const user = (session.readsAll && params.get("user")) || session.user_id;
	const sessionId = params.get("session");
	return sessionId ? html`<${Conversation} key=${`${user} ${sessionId}`} user=${user} sessionId=${sessionId} />` : html`<${List} key=${user} user=${user} params=${params} />`;
}
