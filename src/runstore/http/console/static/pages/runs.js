// All runs, live: filters and order in the URL, and actions on several.

import { Ago, Ask, Chips, compact, complain, counted, duration, Empty, failed, Found, go, href, html, isOpen, line, link, Live, money, number, Page, Select, setParams, shortId, Status, STATUSES, tell, toggled, tookOf, useEffect, useEvery, useGet, useKeys, useMemo, useNow, useRef, useSession, useSettled, useState, wordOf } from "../kit.js";
import { Virtual } from "../parts/virtual.js";
import { changed, changesOf, deleteRun, DELETION, isOfWorkspace, listRuns, retry, stop, toEach } from "../runs.js";
import { follow } from "../stream.js";

const ROW_PX = 48;
const NARROW_ROW_PX = 68;
const SOON_MS = 200; // between a change and the next read of the first page
const REFRESH_MS = 1_500; // between two reads of it, while runs change
const AGAIN_MS = 4_000; // between two looks at the runs of a workspace, which have no stream
const TOTALS_MS = 30_000; // between two reads of the totals, which count all runs
const MOST_SELECTED = 1_000; // runs of one action
const WITHIN = [["", "any time"], ["1h", "last hour"], ["24h", "last day"], ["168h", "last 7 days"], ["720h", "last 30 days"]];
const SORTS = { "": "newest first", failed: "failures first", duration: "longest first", tokens: "most tokens first", cost: "highest cost first" };
const COLUMNS = [["duration", "Duration"], ["tokens", "Tokens", "tokens"], ["cost", "Cost", "cost"], ["", "Created", "when"]]; // by their order
const STATES = { "": "all", ...Object.fromEntries(STATUSES.map((each) => [each, wordOf(each)])) };
const EMPTY = { rows: [], totals: null, next: null, error: null, loading: true };
const narrow = matchMedia("(max-width: 720px)");

function queryOf(params) {
	const within = parseInt(params.get("within"), 10);
	return {
		text: params.get("q"), status: params.get("status"), agent: params.get("agent"), user_id: params.get("user"),
		session_id: params.get("session"), workspace_id: params.get("workspace"), error_code: params.get("error"), sort: params.get("sort"),
		since: within ? new Date(Date.now() - within * 3_600_000).toISOString() : null,
	};
}

function useRuns(query, session) {
	const [state, setState] = useState(EMPTY);
	const [live, setLive] = useState("live");
	const { current: list } = useRef({});
	const key = JSON.stringify(query);

	useEffect(() => {
		const abort = new AbortController();
		let reading = null;
		let paged = false; // older rows were asked for, and are kept
		let totalled = 0;
		let readAt = 0;
		let timer = null;
		let lost = false;
		list.read = async (after) => {
			if (reading && after) return;
			reading?.abort();
			const mine = new AbortController();
			const totals = Date.now() - totalled >= TOTALS_MS;
			reading = mine;
			paged ||= Boolean(after);
			readAt = Date.now();
			try {
				const page = await listRuns(query, session, { after, totals, signal: mine.signal });
				if (totals) totalled = Date.now();
				setState((old) => {
					const found = after ? joined(old, page) : paged ? merged(old, page) : { rows: page.data, next: page.next };
					return { ...found, totals: totals ? page.totals : old.totals, error: null, loading: false };
				});
			} catch (error) {
				if (error.name !== "AbortError") setState((old) => ({ ...old, error, loading: false }));
			} finally {
				if (reading === mine) reading = null;
			}
		};
		const readSoon = () => {
			// A read under way goes to its end; with changes all the time, none would otherwise.
			timer ??= setTimeout(() => { timer = null; if (reading) readSoon(); else list.read(); }, Math.max(SOON_MS, REFRESH_MS + readAt - Date.now()));
		};
		const onEvents = (events) => {
			setState((old) => ({ ...old, rows: applied(old.rows, events) }));
			readSoon();
		};
		const onState = (found) => {
			if (found === "live" && lost) readSoon();
			lost = found === "lost";
			setLive(found instanceof Error ? "lost" : found);
		};
		setState(EMPTY);
		list.read();
		follow({ ...changesOf(session), signal: abort.signal, onEvents, onState });
		return () => { abort.abort(); reading?.abort(); clearTimeout(timer); };
	}, [key]);

	const refresh = () => list.read();
	useEvery(isOfWorkspace(query, session) && AGAIN_MS, refresh);
	return { ...state, live, refresh, loadMore: () => state.next !== null && list.read(state.next) };
}

const without = (rows, others) => {
	const ids = new Set(others.map((run) => run.run_id));
	return rows.filter((run) => !ids.has(run.run_id));
};

const joined = ({ rows }, page) => ({ rows: [...rows, ...without(page.data, rows)], next: page.next });

/** The first page as it is now, and the rows that were loaded after it. */
function merged({ rows, next }, page) {
	const place = page.next === null ? -1 : rows.findIndex((run) => run.run_id === page.data.at(-1).run_id);
	const kept = place < 0 ? [] : without(rows.slice(place + 1), page.data);
	return { rows: [...page.data, ...kept], next: kept.length ? next : page.next };
}

// New runs come with the next read.
function applied(rows, events) {
	const found = new Map(rows.map((run) => [run.run_id, run]));
	for (const event of events) {
		const run = found.get(event.run_id);
		if (run) found.set(event.run_id, changed(run, event));
	}
	return [...found.values()].filter(Boolean);
}

function Row({ run, index, now, cursor, chosen, onChoose, withUser }) {
	const label = line(run.title) || "no input";
	return html`<div class=${`row run-row ${cursor ? "cursor" : ""}`} role="row" aria-rowindex=${index + 1} aria-selected=${chosen}>
		<span role="cell" class="pick"><input type="checkbox" checked=${chosen} aria-label=${`Choose run ${label}`} onChange=${() => onChoose(run.run_id)} /></span>
		<span role="cell" class="state"><${Status} status=${run.status} stopping=${run.cancel_requested} /></span>
		<span role="cell" class="what">
			<a class="title" href=${href(`runs/${run.run_id}`)}>${label}</a>
			<span class="sub"><span>${run.agent}</span>${run.error ? failed(line(run.error, 90)) : html`<code title=${run.run_id}>${shortId(run.run_id)}</code>`}</span>
		</span>
		${withUser && html`<span role="cell" class="user dim">${run.user_id}</span>`}
		<span role="cell" class="num">${duration(tookOf(run, now))}</span>
		<span role="cell" class="num tokens">${run.tokens ? compact(run.tokens) : "–"}</span>
		<span role="cell" class="num cost">${money(run.cost, run.currency)}</span>
		<span role="cell" class="num when"><${Ago} at=${run.created_at} /></span>
	</div>`;
}

function Filters({ params, agents }) {
	const session = useSession();
	const [text, setText] = useState(params.get("q") ?? "");
	const settled = useSettled(text, 300).trim();
	const asked = params.get("q") ?? "";
	useEffect(() => {
		if (asked !== settled) setParams({ q: settled });
	}, [settled]);
	useEffect(() => {
		if (asked !== settled) setText(asked); // a link or the history changed the URL
	}, [asked]);
	const choice = (name, label, options) => html`<${Select} aria-label=${label} options=${options} chosen=${params.get(name) ?? ""} onChoose=${(value) => setParams({ [name]: value })} />`;
	return html`<div class="filters" role="search">
		<input id="search" type="search" placeholder="Search inputs, answers, tool calls   /" value=${text} aria-label="Search" maxlength="200" onInput=${(event) => setText(event.currentTarget.value)} />
		<${Chips} label="State" options=${STATES} chosen=${params.get("status") ?? ""} onChoose=${(status) => setParams({ status })} />
		${choice("agent", "Agent", [["", "any agent"], ...agents])}
		${choice("within", "Time", WITHIN)}
		${choice("sort", "Order", Object.entries(SORTS))}
		${session.workspaces.length > 0 && choice("workspace", "Workspace", [["", "my own runs"], ...session.workspaces])}
		${["user", "session", "workspace", "error"].filter((name) => params.get(name) && !(name === "workspace" && session.workspaces.length)).map((name) => html`<button class="chosen" key=${name}
				aria-label=${`Remove the filter ${name}`} onClick=${() => setParams({ [name]: null })}>${name}: ${params.get(name)} ✕</button>`)}
	</div>`;
}

function Bulk({ picked, onDone }) {
	const session = useSession();
	const [asking, setAsking] = useState(false);
	const ids = (open) => picked.filter((run) => isOpen(run.status) === open).map((run) => run.run_id);
	const [open, closed] = [ids(true), ids(false)];
	const act = async (runIds, verb, action) => {
		const { worked, error } = await toEach(runIds, action);
		if (worked) tell(`${verb} ${counted(worked, "run")}.`);
		if (error) complain(error);
		onDone();
	};
	return html`<div class="bulk" role="toolbar" aria-label="Chosen runs">
		<span>${counted(picked.length, "run")} chosen</span>
		${session.changes && html`
			<button disabled=${!open.length} onClick=${() => act(open, "Stopping", stop)}>Stop ${open.length || ""}</button>
			<button disabled=${!closed.length} onClick=${() => act(closed, "Started", retry)}>Retry ${closed.length || ""}</button>
			<button class="danger" disabled=${!closed.length} onClick=${() => setAsking(true)}>Delete ${closed.length || ""}</button>`}
		${picked.length === 2 && html`<a class="button" href=${href("compare", { a: picked[0].run_id, b: picked[1].run_id })}>Compare</a>`}
		<button class="quiet" onClick=${onDone}>Cancel</button>
		${asking && html`<${Ask} title="Delete runs" action=${`Delete ${counted(closed.length, "run")}`} danger onClose=${() => setAsking(false)} onYes=${() => { setAsking(false); act(closed, "Deleted", deleteRun); }}>
			<p>${DELETION}</p><//>`}
	</div>`;
}

export default function Runs({ params }) {
	const session = useSession();
	const key = params.toString();
	const query = useMemo(() => queryOf(params), [key]);
	const { rows, totals, next, error, loading, live, loadMore, refresh } = useRuns(query, session);
	const { data: known } = useGet("/agents");
	const now = useNow();
	const [cursor, setCursor] = useState(-1);
	const [chosen, setChosen] = useState(new Set());
	const sorted = params.get("sort") ?? "";
	const move = (by) => () => setCursor((old) => Math.min(Math.max(old + by, 0), rows.length - 1));
	const choose = (runId) => setChosen((old) => (old.size < MOST_SELECTED || old.has(runId) ? toggled(old, runId) : old));
	const chooseAll = (event) => setChosen(new Set(event.currentTarget.checked ? rows.slice(0, MOST_SELECTED).map((run) => run.run_id) : []));
	const chooseNone = () => setChosen(new Set());
	useKeys({
		"/": [() => document.getElementById("search")?.focus(), "search"],
		j: [move(1), "the next run"],
		k: [move(-1), "the run before"],
		Enter: [(event) => {
			if (event.target.closest("a, button")) event.target.click();
			else if (rows[cursor]) go(href(`runs/${rows[cursor].run_id}`));
		}, "open the run"],
		x: [() => rows[cursor] && choose(rows[cursor].run_id), "choose the run"],
		f: [() => setParams({ sort: sorted === "failed" ? null : "failed" }), "failures first"],
		Escape: [() => { chooseNone(); document.activeElement?.blur(); }, "choose nothing"],
	});

	const picked = rows.filter((run) => chosen.has(run.run_id));
	const withUser = session.readsAll || isOfWorkspace(query, session);
	const agents = [...new Set([...(known?.data ?? []).map((agent) => agent.name), params.get("agent")])].filter(Boolean);
	const filtered = [...params.keys()].some((name) => name !== "sort");
	const header = html`<div class="row head run-row" role="row">
		<span role="columnheader" class="pick"><input type="checkbox" aria-label="Choose all loaded runs" checked=${rows.length > 0 && chosen.size >= Math.min(rows.length, MOST_SELECTED)} onChange=${chooseAll} /></span>
		<span role="columnheader">State</span><span role="columnheader">Run</span>
		${withUser && html`<span role="columnheader" class="user">User</span>`}
		${COLUMNS.map(([sort, label, kind = ""]) => html`<span role="columnheader" class=${`num ${kind}`} aria-sort=${sorted === sort ? "descending" : "none"}>
			<button class="sort" onClick=${() => setParams({ sort })}>${label}</button></span>`)}
	</div>`;
	const list = () => html`<${Virtual} role="table" label="Runs" count=${rows.length} height=${narrow.matches ? NARROW_ROW_PX : ROW_PX} selected=${cursor} head=${header}
		onRange=${(first, last) => last > rows.length - 60 && loadMore()}
		row=${(index) => html`<${Row} key=${rows[index].run_id} run=${rows[index]} index=${index} now=${now} cursor=${index === cursor}
			chosen=${chosen.has(rows[index].run_id)} onChoose=${choose} withUser=${withUser} />`}
		tail=${html`<p class="tail dim">${next === null ? `${number(rows.length)} of ${number(rows.length)}` : "Loading more…"}</p>`} />`;
	const nothing = () => html`<${Empty} title=${filtered ? "No run fits" : "No runs yet"}>
		<p>${filtered ? link("Show all runs", "runs") : html`Start one here, or with <code>POST /agents/NAME/start</code>.`}</p><//>`;
	const sums = totals && `${counted(totals.runs, "run")} · ${compact(totals.tokens)} tokens${totals.cost > 0 ? ` · ${money(totals.cost, rows.find((run) => run.currency)?.currency)}` : ""}`;

	return html`<${Page} name="Runs" kind=${`fills ${withUser ? "with-user" : ""}`} totals=${html`${sums} <${Live} state=${live} />`}
			head=${session.changes && html`<a class="button primary" href=${href("start")}>Start a run</a>`}>
		<${Filters} params=${params} agents=${agents} />
		${picked.length > 0 && html`<${Bulk} picked=${picked} onDone=${() => { chooseNone(); refresh(); }} />`}
		${rows.length ? list() : html`<${Found} of=${{ error, loading, reload: refresh }} show=${nothing} />`}<//>`;
}
