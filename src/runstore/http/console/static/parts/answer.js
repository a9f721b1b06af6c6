// A question of a run to a person, and the form for its answer. An approval covers exactly the call that is shown.

import { html, useState } from "../vendor/htm-preact.js";
import { post } from "../api.js";
import { ago, moment } from "../format.js";
import { useNow } from "../hooks.js";
import { attempt } from "../notes.js";
import { useSession } from "../session.js";
import { marked, plain } from "../text.js";
import { Blocks, Text } from "./blocks.js";
import { Json } from "./json.js";

export const give = (runId, requestId, body) => post(`/runs/${runId}/inputs/${encodeURIComponent(requestId)}`, body);

/** A field for each property of a flat schema; otherwise one for JSON. */
function fieldsOf(schema) {
  const properties = schema?.type === "object" ? Object.entries(schema.properties ?? {}) : null;
  const simple = properties?.length && properties.every(([, each]) => ["string", "number", "integer", "boolean"].includes(each.type) || each.enum);
  return simple ? properties : null;
}

function Field({ name, schema, required, value, onValue }) {
  const id = `answer-${name}`;
  const label = html`<label for=${id}>${plain(schema.title ?? name)}${required ? "" : html` <span class="dim">optional</span>`}</label>`;
  const note = schema.description && html`<p class="dim">${plain(schema.description)}</p>`;
  if (schema.type === "boolean") {
    return html`<div class="field line"><input type="checkbox" id=${id} checked=${value === true} onChange=${(event) => onValue(event.currentTarget.checked)} />${label}${note}</div>`;
  }
  if (schema.enum) {
    return html`<div class="field">${label}<select id=${id} value=${value ?? ""} onChange=${(event) => onValue(schema.enum[event.currentTarget.selectedIndex - 1])}>
      <option value="">choose…</option>${schema.enum.map((each) => html`<option value=${each}>${plain(each)}</option>`)}</select>${note}</div>`;
  }
  const numeric = schema.type === "number" || schema.type === "integer";
  return html`<div class="field">${label}<input id=${id} type=${numeric ? "number" : "text"} step=${schema.type === "integer" ? 1 : "any"} value=${value ?? ""}
    onInput=${(event) => onValue(numeric ? event.currentTarget.valueAsNumber : event.currentTarget.value)} />${note}</div>`;
}

/** Approve or deny a call, perhaps with other arguments, which the server checks. */
function Approval({ request, busy, send, children }) {
  const [edited, setEdited] = useState(null);
  const [reason, setReason] = useState("");
  const approve = () => attempt(async () => send({ approve: true, ...(edited === null ? {} : { input: JSON.parse(edited) }) }));
  return html`<div class="answer">
    ${edited !== null && html`<div class="field"><label for="arguments">Arguments, as JSON</label><textarea id="arguments" class="mono" value=${edited} onInput=${(event) => setEdited(event.currentTarget.value)}></textarea></div>`}
    <div class="field"><label for="reason">Reason, if you deny it <span class="dim">optional; the model gets it</span></label><input id="reason" maxlength="2000" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></div>
    ${children}
    <footer><button type="button" class="primary" disabled=${busy} onClick=${approve}>Approve</button>
      <button type="button" class="danger" disabled=${busy} onClick=${() => send({ approve: false, ...(reason ? { reason } : {}) })}>Deny</button>
      <button type="button" class="quiet" aria-pressed=${edited !== null} onClick=${() => setEdited(edited === null ? JSON.stringify(request.input ?? {}, null, 2) : null)}>${edited === null ? "Change the arguments…" : "As the model asked"}</button></footer></div>`;
}

export function AnswerForm({ runId, request, onDone }) {
  const [values, setValues] = useState({});
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const { request_id: id, kind, schema, expires_at: expires } = request;
  const now = useNow();
  const send = async (answer) => {
    setBusy(true);
    if (await attempt(() => give(runId, id, { answer }), "Answered.")) onDone?.();
    setBusy(false);
  };
  const fields = kind === "approval" ? null : fieldsOf(schema);
  const submit = (event) => {
    event.preventDefault();
    if (fields) return send(values);
    if (!schema || schema.type === "string") return send(text);
    return attempt(async () => send(JSON.parse(text)));
  };
  const left = expires && html`<p class="dim" title=${moment(expires)}>${new Date(expires) > now ? "Expires" : "Expired"} ${moment(expires)}</p>`;
  if (kind === "approval") return html`<${Approval} request=${request} busy=${busy} send=${send}>${left}<//>`;
  if (schema?.enum) {
    return html`<div class="answer">${left}<footer>${schema.enum.map((each) => html`<button type="button" disabled=${busy} key=${each} onClick=${() => send(each)}>${plain(each)}</button>`)}</footer></div>`;
  }
  const required = new Set(schema?.required ?? []);
  return html`<form class="answer" onSubmit=${submit}>
    ${fields ? fields.map(([name, each]) => html`<${Field} key=${name} name=${name} schema=${each} required=${required.has(name)}
        value=${values[name]} onValue=${(value) => setValues((old) => ({ ...old, [name]: value }))} />`)
      : html`<div class="field"><label for=${`text-${id}`}>${schema && schema.type !== "string" ? "Answer, as JSON" : "Answer"}</label>
          <textarea id=${`text-${id}`} required value=${text} onInput=${(event) => setText(event.currentTarget.value)}></textarea></div>`}
    ${left}
    <footer><button type="submit" class="primary" disabled=${busy}>Answer</button></footer>
  </form>`;
}

/** The question of an `input.requested`, and its answer or the form for it. */
export function Question({ runId, request, onDone, children }) {
  const session = useSession();
  return html`<div class="question">
    <${Text} text=${request.prompt ?? ""} />
    ${request.tool && html`<div class="call"><p><span class="kind tool">tool</span> <strong>${marked(request.tool)}</strong></p>${request.input !== undefined && html`<${Json} value=${request.input} />`}</div>`}
    ${request.data !== undefined && request.data !== null && html`<${Blocks} value=${request.data} raw=${true} />`}
    ${children ?? (session.changes ? html`<${AnswerForm} runId=${runId} request=${request} onDone=${onDone} />` : html`<p class="dim">An auditor answers nothing.</p>`)}
  </div>`;
}

/** As a step of a run. */
export function Answer({ node, data }) {
  const now = useNow(10_000);
  const given = node.answer && html`<div class="part"><header><h3>Answer ${node.answer.by ? `of ${plain(node.answer.by)}` : "by default, as it expired"}, ${ago(new Date(node.end).toISOString(), now)}</h3></header>
    <${Blocks} value=${node.answer.answer} raw=${true} /></div>`;
  return html`<${Question} runId=${data.runId} request=${node.data}>${given || (data.fold.ending ? html`<p class="dim">The run ended without an answer.</p>` : null)}<//>`;
}
