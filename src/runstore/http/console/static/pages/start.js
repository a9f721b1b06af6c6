// Start a run, or start one again with edits.

import { complain, Field, fieldsOf, get, go, href, html, line, link, Page, Problem, useAsked, useSession, useState } from "../kit.js";
import { start, startOf } from "../runs.js";

const BLOCKS = '[{"text": "What is in this picture?"}, {"image": …}]';
const shown = (value) => (typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2));

function parsed(name, text) {
	try {
		return text ? JSON.parse(text) : undefined;
	} catch (error) {
		throw new Error(`${name}: ${error.message}`);
	}
}

function Form({ agents, given: { agent: first, body }, from }) {
	const session = useSession();
	const [agent, setAgent] = useState(first ?? agents[0]?.name ?? "");
	const [asJson, setAsJson] = useState(typeof (body.input ?? "") !== "string");
	const [busy, setBusy] = useState(false);
	const known = agents.find((each) => each.name === agent);
	const code = agent === "run-code";
	const names = [...new Set([...agents.map((each) => each.name), first])].filter(Boolean);
	const submit = async (event) => {
		const fields = fieldsOf(event);
		setBusy(true);
		try {
			const run = await start(agent, {
				input: asJson || code ? parsed("Input", fields.input) ?? null : fields.input, code: fields.code, metadata: parsed("Metadata", fields.metadata),
				session_id: fields.session || null, workspace_id: fields.workspace || null,
			});
			go(href(`runs/${run.run_id}`));
		} catch (error) {
			complain(error);
			setBusy(false);
		}
	};
	return html`<form class="stack-form start" onSubmit=${submit}>
		<${Field} id="agent" label="Agent" options=${names} chosen=${agent} onChoose=${setAgent}>
			${known && html`<p class="dim">${[known.description, known.model, known.note].filter(Boolean).join(" · ")}</p>`}<//>
		${code && html`<${Field} id="code" label="Python" rows="8" class="mono" required defaultValue=${body.code ?? ""} />`}
		${!code && html`<label class="check"><input type="checkbox" checked=${asJson} onChange=${(event) => setAsJson(event.currentTarget.checked)} /> content blocks, as JSON</label>`}
		<${Field} id="input" label=${code ? "Input, as JSON" : "Input"} rows="6" autofocus required=${!code} class=${asJson || code ? "mono" : ""} placeholder=${asJson ? BLOCKS : "What the agent is asked"} defaultValue=${shown(body.input)} />
		<div class="columns">
			<${Field} id="session" label="Session" note="optional" maxlength="255" defaultValue=${body.session_id ?? ""} />
			${session.workspaces.length > 0 && html`<${Field} id="workspace" label="Workspace" chosen=${body.workspace_id ?? ""} options=${[["", "none"], ...session.workspaces]} />`}
		</div>
		<${Field} id="metadata" label="Metadata" note="JSON, optional" rows="3" class="mono short" defaultValue=${Object.keys(body.metadata ?? {}).length ? shown(body.metadata) : ""} />
		<footer><a class="button" href=${href(from ? `runs/${from}` : "runs")}>Cancel</a><button type="submit" class="primary" disabled=${busy}>Start</button></footer>
	</form>`;
}

export default function Start({ params }) {
	const from = params.get("from");
	const session = useSession();
	const found = useAsked(`${from}`, (signal) => Promise.all([get("/agents", {}, signal), from && get(`/runs/${encodeURIComponent(from)}`, {}, signal)]));
	if (!session.changes) return html`<${Problem} error=${{ status: 403, message: "An auditor reads everything, and changes nothing." }} />`;
	const given = { agent: params.get("agent"), body: { session_id: params.get("session") } };
	return html`<${Page} kind="narrow" name=${from ? "Run again" : "Start a run"} totals=${from && html`as ${link(line(from, 60), `runs/${from}`)}, edited`}
		found=${found} show=${([agents, record]) => html`<${Form} agents=${agents.data} given=${record ? startOf(record) : given} from=${from} />`} />`;
}
