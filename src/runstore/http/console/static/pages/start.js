// Start a run: of any agent, or again with what an earlier run had, edited.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { title, useGet } from "../hooks.js";
import { complain } from "../notes.js";
import { Loading, Problem } from "../parts/problem.js";
import { go, href } from "../route.js";
import { start, startOf } from "../runs.js";
import { useSession } from "../session.js";
import { line, plain } from "../text.js";

const STRATEGIES = { enqueue: "wait for it", interrupt: "replace it", reject: "refuse this start", parallel: "run beside it" };
const shown = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value, null, 2));

/** The value of a field that takes text or JSON. Throws with the field's name. */
function parsed(name, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
}

function Form({ agents, given, from }) {
  const session = useSession();
  const [agent, setAgent] = useState(given.agent ?? agents[0]?.name ?? "");
  const [asJson, setAsJson] = useState(typeof given.body.input !== "string" && given.body.input !== undefined);
  const [busy, setBusy] = useState(false);
  const known = agents.find((each) => each.name === agent);
  const code = agent === "run-code";
  const names = [...new Set([...agents.map((each) => each.name), ...(given.agent ? [given.agent] : [])])];
  const submit = async (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.currentTarget));
    setBusy(true);
    try {
      const input = asJson || code ? (fields.input.trim() ? parsed("Input", fields.input) : null) : fields.input;
      const metadata = fields.metadata.trim() ? parsed("Metadata", fields.metadata) : undefined;
      const run = await start(agent, {
        input, code: fields.code, metadata, session_id: fields.session.trim(), workspace_id: fields.workspace?.trim(),
        multitask_strategy: fields.session.trim() ? fields.strategy : undefined,
      });
      go(href(`runs/${run.run_id}`));
    } catch (error) {
      complain(error);
      setBusy(false);
    }
  };
  return html`<form class="stack-form start" onSubmit=${submit}>
    <div class="field"><label for="agent">Agent</label>
      <select id="agent" value=${agent} onChange=${(event) => setAgent(event.currentTarget.value)}>${names.map((name) => html`<option key=${name} value=${name}>${plain(name)}</option>`)}</select>
      ${known && html`<p class="dim">${[known.description, known.model, known.note].filter(Boolean).map(plain).join(" · ")}</p>`}</div>
    ${code && html`<div class="field"><label for="code">Python</label><textarea id="code" name="code" class="mono" required>${given.body.code ?? ""}</textarea></div>`}
    <div class="field"><div class="line-between"><label for="input">Input${code ? ", as JSON" : ""}</label>
        ${!code && html`<label class="check"><input type="checkbox" checked=${asJson} onChange=${(event) => setAsJson(event.currentTarget.checked)} /> content blocks, as JSON</label>`}</div>
      <textarea id="input" name="input" autofocus required=${!code} class=${asJson || code ? "mono" : ""}
        placeholder=${asJson ? '[{"text": "What is in this picture?"}, {"image": …}]' : "What the agent is asked"}>${shown(given.body.input)}</textarea></div>
    <div class="columns">
      <div class="field"><label for="session">Session <span class="dim">optional</span></label><input id="session" name="session" maxlength="255" value=${given.body.session_id ?? ""} /></div>
      <div class="field"><label for="strategy">If the session has a run</label><select id="strategy" name="strategy">${Object.entries(STRATEGIES).map(([value, label]) => html`<option key=${value} value=${value}>${label}</option>`)}</select></div>
      ${session.workspaces.length > 0 && html`<div class="field"><label for="workspace">Workspace</label><select id="workspace" name="workspace" value=${given.body.workspace_id ?? ""}>
        <option value="">none</option>${session.workspaces.map((each) => html`<option key=${each} value=${each}>${plain(each)}</option>`)}</select></div>`}
    </div>
    <div class="field"><label for="metadata">Metadata <span class="dim">JSON, optional</span></label><textarea id="metadata" name="metadata" class="mono short">${given.body.metadata && Object.keys(given.body.metadata).length ? shown(given.body.metadata) : ""}</textarea></div>
    <footer><a class="button" href=${from ? href(`runs/${from}`) : href("runs")}>Cancel</a><button type="submit" class="primary" disabled=${busy}>Start</button></footer>
  </form>`;
}

export default function Start({ params }) {
  title("Start a run");
  const from = params.get("from");
  const session = useSession();
  const { data: agents, error } = useGet("/agents");
  const { data: record, error: missing } = useGet(from ? `/runs/${encodeURIComponent(from)}` : null);
  const [given, setGiven] = useState(from ? null : { agent: params.get("agent"), body: { session_id: params.get("session") } });
  useEffect(() => { if (record) setGiven(startOf(record)); }, [record]);
  if (!session.changes) return html`<${Problem} error=${{ status: 403, message: "An auditor reads everything, and changes nothing." }} />`;
  if (error || missing) return html`<${Problem} error=${error ?? missing} />`;
  if (!agents || !given) return html`<${Loading} />`;
  return html`<section class="page narrow"><header class="page-head"><h1>${from ? "Run again" : "Start a run"}</h1>
    ${from && html`<p class="dim">as <a href=${href(`runs/${from}`)}>${line(from, 60)}</a>, edited</p>`}</header>
    <${Form} agents=${agents.data} given=${given} from=${from} /></section>`;
}
