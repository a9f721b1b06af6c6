// A question of a run to a person, and the form for its answer.

import { Ago, attempt, Field, fieldsOf, html, moment, plain, post, Room, Section, useRef, useSession, useState } from "../kit.js";
import { Blocks, Call, Text } from "./blocks.js";

const MOST_FIELDS = 50; // and choices of one; a larger answer is given as JSON
const TYPES = { string: "text", number: "number", integer: "number", boolean: "checkbox" };

/** The properties of a flat schema, which get a field each; otherwise null. */
function propertiesOf(schema) {
	const properties = schema?.type === "object" ? Object.entries(schema.properties ?? {}) : [];
	return properties.length && properties.length <= MOST_FIELDS && properties.every(([, each]) => Object.hasOwn(TYPES, each.type) || each.enum?.length <= MOST_FIELDS) ? properties : null;
}

function Property({ name, schema, required }) {
	const kind = schema.enum ? { options: [["", "choose…"], ...schema.enum.map((each, index) => [index, each])] }
		: { type: TYPES[schema.type], step: schema.type === "integer" ? 1 : "any" };
	return html`<${Field} id=${`answer-${name}`} label=${schema.title ?? name} note=${required ? "" : "optional"} ...${kind}>
		${schema.description && html`<p class="dim">${schema.description}</p>`}<//>`;
}

function valueOf(text, { type, enum: choices }) {
	if (type === "boolean") return text !== undefined;
	if (!text) return undefined;
	if (choices) return choices[Number(text)];
	return type === "string" ? text : Number(text);
}

function Approval({ request, busy, send, children }) {
	const [edited, setEdited] = useState(null);
	const [reason, setReason] = useState("");
	const approve = () => attempt(async () => send({ approve: true, ...(edited === null ? {} : { input: JSON.parse(edited) }) }));
	return html`<div class="answer">
		${edited !== null && html`<${Field} id="arguments" label="Arguments, as JSON" rows="4" class="mono" value=${edited} onInput=${(event) => setEdited(event.currentTarget.value)} />`}
		<${Field} id="reason" label="Reason, if you deny it" note="optional; the model gets it" maxlength="2000" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} />
		${children}
		<footer><button class="primary" disabled=${busy} onClick=${approve}>Approve</button>
			<button class="danger" disabled=${busy} onClick=${() => send({ approve: false, ...(reason ? { reason } : {}) })}>Deny</button>
			<button class="quiet" aria-pressed=${edited !== null} onClick=${() => setEdited(edited === null ? JSON.stringify(request.input ?? {}, null, 2) : null)}>${edited === null ? "Change the arguments…" : "As the model asked"}</button></footer></div>`;
}

function AnswerForm({ runId, request, onDone }) {
	const [busy, setBusy] = useState(false);
	const { request_id: id, kind, schema, expires_at: expires } = request;
	const send = async (answer) => {
		setBusy(true);
		if (await attempt(() => post(`/runs/${runId}/inputs/${encodeURIComponent(id)}`, { answer }), "Answered.")) onDone?.();
		setBusy(false);
	};
	const properties = propertiesOf(schema);
	const isText = !schema || schema.type === "string";
	const submit = (event) => {
		const fields = fieldsOf(event);
		if (properties) return send(Object.fromEntries(properties.map(([name, each]) => [name, valueOf(fields[`answer-${name}`], each)])));
		return isText ? send(fields[`text-${id}`]) : attempt(async () => send(JSON.parse(fields[`text-${id}`])));
	};
	const left = expires && html`<p class="dim">Expires ${moment(expires)}</p>`;
	if (kind === "approval") return html`<${Approval} request=${request} busy=${busy} send=${send}>${left}<//>`;
	if (schema?.enum?.length <= MOST_FIELDS) {
		return html`<div class="answer">${left}<footer>${schema.enum.map((each) => html`<button disabled=${busy} onClick=${() => send(each)}>${plain(each)}</button>`)}</footer></div>`;
	}
	return html`<form class="answer" onSubmit=${submit}>
		${properties?.map(([name, each]) => html`<${Property} key=${name} name=${name} schema=${each} required=${schema.required?.includes(name)} />`)
			?? html`<${Field} id=${`text-${id}`} label=${isText ? "Answer" : "Answer, as JSON"} rows="3" required />`}
		${left}
		<footer><button type="submit" class="primary" disabled=${busy}>Answer</button></footer></form>`;
}

export function Question({ runId, request, onDone, children }) {
	const session = useSession();
	const { current: room } = useRef({ left: 200 }); // its own: another question may not fold what this one asks
	return html`<div class="question">
		<${Room.Provider} value=${room}><${Text} text=${request.prompt ?? ""} />
			${request.tool && html`<${Call} name=${request.tool} input=${request.input} />`}<//>
		${request.data != null && html`<${Blocks} value=${request.data} raw />`}
		${children ?? (session.changes ? html`<${AnswerForm} runId=${runId} request=${request} onDone=${onDone} />` : html`<p class="dim">An auditor answers nothing.</p>`)}
	</div>`;
}

export function Answered({ node, runId, ended }) {
	const { answer } = node;
	const given = answer && html`<${Section} title=${html`Answer ${answer.by ? `of ${answer.by}` : "by default, as it expired"}, <${Ago} at=${node.ended_at} />`}>
		<${Blocks} value=${answer.answer} raw /><//>`;
	return html`<${Question} runId=${runId} request=${node.data}>${given || (ended ? html`<p class="dim">The run ended without an answer.</p>` : null)}<//>`;
}
