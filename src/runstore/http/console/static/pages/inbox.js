// Questions of runs that wait for a person.

import { Ago, counted, Empty, get, href, html, Page, titleOf, useAsked, useSession } from "../kit.js";
import { Question } from "../parts/answer.js";

const RUNS = 50; // waiting runs that are shown at once
const AGAIN_MS = 4_000;

// A run may have been deleted or purged in between.
const leftOut = (error) => ([404, 410].includes(error.status) ? { data: [] } : Promise.reject(error));

async function readWaiting(session, signal) {
	const workspaces = session.roles.includes("approver") && !session.readsAll ? session.workspaces : [];
	const places = [{}, ...workspaces.map((workspace_id) => ({ workspace_id }))];
	const pages = await Promise.all(places.map((place) => get("/runs", { status: "waiting", limit: RUNS, ...place }, signal)));
	const runs = new Map(pages.flatMap((page) => page.data).map((run) => [run.run_id, run]));
	const newest = [...runs.values()].sort((a, b) => (a.run_id < b.run_id ? 1 : -1)).slice(0, RUNS);
	const asked = await Promise.all(newest.map(async (run) => {
		const inputs = await get(`/runs/${run.run_id}/inputs`, {}, signal).catch(leftOut);
		return inputs.data.filter((each) => each.status === "open").map((request) => ({ run, request }));
	}));
	return { questions: asked.flat(), more: runs.size > RUNS || pages.some((page) => page.next !== null) };
}

export default function Inbox() {
	const session = useSession();
	const found = useAsked("inbox", (signal) => readWaiting(session, signal), AGAIN_MS);
	const count = found.data?.questions.length;
	return html`<${Page} name="Inbox" kind="narrow" totals=${count ? counted(count, "question") : ""} found=${found}
		empty=${count === 0 && html`<${Empty} title="Nothing waits for you"><p class="dim">Runs that need an answer or an approval appear here.</p><//>`}
		show=${({ questions, more }) => html`${questions.map(({ run, request }) => html`<article class="card" key=${`${run.run_id} ${request.request_id}`}>
			<p class="dim"><a class="strong" href=${href(`runs/${run.run_id}`)}>${titleOf(run, 80)}</a> · ${request.agent} · ${run.user_id} · <${Ago} at=${request.asked_at} /></p>
			<${Question} runId=${run.run_id} request=${request} onDone=${found.reload} /></article>`)}
		${more && html`<p class="dim">More runs wait; these are the newest.</p>`}`} />`;
}
