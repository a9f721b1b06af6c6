// Everything about one step: what went in beside what came out, usage, times, and its events.

import { reasoningOf, saidBy } from "../steps.js";
import { clock, dim, duration, Facts, failed, get, html, line, link, moment, money, number, Panel, Section, Status, useAsked, useMore } from "../kit.js";
import { Answered } from "./answer.js";
import { Blocks, Json, Reasoning } from "./blocks.js";

const COUNTS = { input_tokens: "input", cache_read_tokens: "from the cache", cache_write_tokens: "into the cache", output_tokens: "output", reasoning_tokens: "reasoning" };
const REASONS = { claimed: "first attempt", adopted: "the worker before was lost", handed_over: "the worker before was stopped", input: "an answer came", added: "a message came at its end" };
const KINDS = { model: "model call", tool: "tool call" };

export const NotLoaded = ({ unread }) => unread && html`<p class="hint">The text between the events ${unread[0]} and ${unread[1]} is not loaded.</p>`;

/** What a model was asked by the event with a seq, exactly. `n`: its number, if it is known. */
async function readRequest(runId, seq, n, signal) {
	const path = `/runs/${runId}/requests`;
	return get(`${path}/${n ?? (await get(path, { seq }, signal)).data[0].n}`, {}, signal);
}

function Source({ source, runId }) {
	if (source?.left_out) return failed(source.left_out);
	if (!source?.seq) return null;
	return link(`${source.run_id ? "earlier run, " : ""}event ${source.seq}`, `runs/${source.run_id ?? runId}`, { tab: "events", from: source.seq });
}

function Request({ seq, n, runId }) {
	const { data: found, error } = useAsked(`${seq}`, (signal) => readRequest(runId, seq, n, signal));
	if (error) return html`<p class="dim">${error.message}</p>`;
	if (!found) return html`<p class="dim" aria-busy="true">Loading…</p>`;
	const { model, provider, system, tools, messages, sources = [], left_out: leftOut } = found;
	const names = line(tools?.map((tool) => tool.name ?? tool.toolSpec?.name ?? "").join(", "), 80);
	const parts = [["Tools", tools], ["Parameters", found.parameters], ["Output schema", found.output_schema], ["Tool choice", found.tool_choice]];
	return html`<div class="request">
		<p><strong>${line(model)}</strong> ${dim(line(provider))}</p>
		${system && html`<details class="request-part"><summary>System prompt</summary><${Blocks} value=${system} raw /></details>`}
		${parts.map(([label, value]) => value && html`<details class="request-part"><summary>${label} ${value === tools && dim(names)}</summary><${Json} value=${value} /></details>`)}
		${leftOut && html`<p class="hint">${leftOut}</p>`}
		<${Messages} messages=${messages ?? []} sources=${sources} runId=${runId} />
	</div>`;
}

function Messages({ messages, sources, runId }) {
	const [some, more] = useMore(messages);
	return html`${some.map((message, index) => html`<div class="message" key=${index}>
		<p class="dim"><strong>${message ? message.role : "left out"}</strong> <${Source} source=${sources[index]} runId=${runId} /></p>
		${message && html`<${Blocks} value=${message.content} raw />`}</div>`)}${more}`;
}

function Model({ node, data }) {
	const usage = node.usage ?? {};
	const text = saidBy(node);
	const others = node.content?.filter((block) => block.text === undefined && !block.reasoningContent) ?? [];
	const nothing = !text && !others.length;
	return html`
		<${Facts} facts=${[
			["first token", usage.first_token_ms > 0 && duration(usage.first_token_ms)],
			...Object.entries(COUNTS).map(([name, label]) => [label, usage[name] > 0 && number(usage[name])]),
			["cost", node.currency && money(node.cost, node.currency)],
		]} />
		${node.status === "discarded" && html`<p class="hint">This text no longer counts: ${node.discarded}.</p>`}
		${node.retries.map((retry) => html`<p class="hint">Try ${retry.attempt} failed (${retry.code}): ${retry.message}${retry.wait_s ? `; waited ${retry.wait_s} s` : ""}</p>`)}
		<div class="beside">
			${node.request_seq ? html`<${Section} title="Request"><${Request} seq=${node.request_seq} n=${node.request_n} runId=${data.runId} /><//>`
				: node.input !== null && html`<${Section} title="New input"><${Blocks} value=${node.input} raw /><//>`}
			<${Section} title="Answer">
				<${Reasoning} text=${reasoningOf(node)} open=${nothing} />
				${text && html`<${Blocks} value=${text} />`}
				${others.length > 0 && html`<${Blocks} value=${others} />`}
				${nothing && html`<p class="dim">${node.status === "running" ? "nothing yet" : "no text"}</p>`}<//>
		</div>`;
}

export const Beside = ({ node }) => html`<div class="beside">
	<${Section} title="Input"><${Json} value=${node.input} /><//>
	<${Section} title=${node.status === "error" ? "Error" : "Output"}>
		${node.output == null ? html`<p class="dim">${node.status === "running" ? "not yet" : "none"}</p>` : html`<${Blocks} value=${node.output} raw />`}<//></div>`;

const Tool = ({ node }) => html`${node.at_most_once && html`<p class="hint">May be called once at most.</p>`}
	<${Beside} node=${node} />
	${node.progress.length > 0 && html`<${Section} title="Progress">
		${node.progress.map(({ at, output }) => html`<div class="progress"><time class="dim">${clock(at)}</time><${Blocks} value=${output} raw /></div>`)}<//>`}`;

const Note = ({ node }) => html`<${Facts} facts=${[["by", node.by && node.by]]} /><${Blocks} value=${noteOf(node)} raw />`;

export const noteOf = ({ data }) => data?.text ?? data?.content ?? data;

const BODIES = {
	model: Model, tool: Tool,
	agent: ({ node }) => html`<${Facts} facts=${[["path", node.path], ["for the tool call", node.call_id && node.call_id], ["steps", number(node.children.length)]]} />`,
	attempt: ({ node }) => html`<${Facts} facts=${[["why", REASONS[node.reason] ?? node.reason], ["worker", node.worker_id && html`<code>${node.worker_id}</code>`]]} />`,
	question: ({ node, data }) => html`<${Answered} node=${node} runId=${data.runId} ended=${data.tree.ended} />`,
};

export function Detail({ node, unread, data, onClose, now }) {
	const took = (node.end ?? now) - node.start;
	return html`<${Panel} label="Step" onClose=${onClose} title=${html`<span class=${`kind ${node.kind}`}>${KINDS[node.kind] ?? node.kind}</span> ${node.name}`}>
		<p class="meta dim">${node.status && html`<${Status} status=${node.status} />`}<span title=${moment(node.start)}>${clock(node.start)}</span>
			${took > 0 && html`<span>${duration(took)}</span>`}
			${link(node.last_seq > node.seq ? `events ${node.seq}–${node.last_seq}` : `event ${node.seq}`, `runs/${data.runId}`, { tab: "events", from: node.seq })}
			${link("the run then", `runs/${data.runId}`, { at: node.last_seq })}</p>
		${node.kind === "model" && !node.content && html`<${NotLoaded} unread=${unread} />`}
		<${BODIES[node.kind] ?? Note} node=${node} data=${data} /><//>`;
}
