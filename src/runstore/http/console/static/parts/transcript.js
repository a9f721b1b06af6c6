// A run as one reads it.

import { entriesOf, reasoningOf, saidBy } from "../steps.js";
import { clock, counted, dim, duration, failed, html, Status, useLayoutEffect, useMemo, useRef, useState } from "../kit.js";
import { Answered } from "./answer.js";
import { Blocks, Reasoning, Result, Text } from "./blocks.js";
import { Beside, noteOf } from "./detail.js";

const SHOWN = 200; // entries at first
const NEAR_PX = 80; // from the end, within which the reader counts as being there

const Entry = ({ kind, label, who, status, at, children }) => html`<div class=${`entry ${kind} ${status ?? ""}`}>
	<header>${label && html`<span class=${`kind ${label}`}>${label}</span>`}<span class="who">${who}</span>
		${status && status !== "success" && html`<${Status} status=${status} />`}<time>${clock(at)}</time></header>${children}</div>`;

function Said({ node }) {
	const [text, reasoning] = [saidBy(node), reasoningOf(node)];
	const running = node.status === "running";
	if (!text && !reasoning && !running) return null;
	return html`<${Entry} kind="said" who=${node.parent?.path} status=${node.status} at=${node.start}>
		<${Reasoning} text=${reasoning} open=${!text && running} />
		${text && (node.status === "discarded" ? html`<del><${Text} text=${text} /></del>` : html`<${Blocks} value=${text} />`)}<//>`;
}

const Did = ({ node, onSelect }) => html`<details class=${`entry did ${node.status}`}><summary><span class="kind tool">tool</span> <strong>${node.name}</strong>
		${node.status !== "success" && html`<${Status} status=${node.status} />`}
		${dim(node.end && duration(node.end - node.start))}</summary>
	<${Beside} node=${node} />
	<p><button class="more" onClick=${() => onSelect(node)}>to the step</button></p></details>`;

const Noted = ({ node }) => html`<${Entry} kind="noted" label="note" who=${`${node.kind === "added" ? "message" : node.name} ${node.by ? `of ${node.by}` : ""}`} at=${node.start}>
	<${Blocks} value=${noteOf(node)} raw /><//>`;

const KINDS = {
	model: Said, tool: Did, note: Noted, added: Noted,
	question: ({ node, data }) => html`<${Entry} kind="asked" label="question" who=${node.parent?.path} at=${node.start}><${Answered} node=${node} runId=${data.runId} ended=${data.tree.ended} /><//>`,
};

const Mark = ({ node }) => (node.kind === "end" && node.status === "success" ? null
	: html`<p class="entry mark-line dim">${node.name} · ${clock(node.start)}${node.data?.message ? html` · ${failed(node.data.message)}` : ""}</p>`);

export function Transcript({ tree, data, result, follow, onFollow, onSelect, tail }) {
	const box = useRef(null);
	const before = useRef(0); // where it was scrolled to
	const [shown, setShown] = useState(SHOWN);
	const entries = useMemo(() => entriesOf(tree), [tree, tree.version]);
	const visible = follow ? entries.slice(-shown) : entries.slice(0, shown);
	useLayoutEffect(() => {
		if (follow) box.current.scrollTop = box.current.scrollHeight;
	}, [tree.version, follow]);
	const scrolled = ({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
		const up = scrollTop < before.current - 2;
		before.current = scrollTop;
		if (up && scrollHeight - clientHeight - scrollTop > NEAR_PX) onFollow(false);
	};
	const hidden = entries.length - visible.length;
	const side = follow ? "earlier" : "later";
	const more = hidden > 0 && html`<p class="center"><button onClick=${() => setShown(shown + SHOWN)}>${counted(hidden, `${side} entry`, `${side} entries`)}</button></p>`;
	const { input } = tree;
	return html`<div class="transcript" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-label="Transcript" aria-live="off">
		<div class="column">
			${input && !(follow && hidden > 0) && html`<${Entry} kind="input" who=${input.user_id} at=${input.at}><${Blocks} value=${input.input} raw /><//>`}
			${follow && more}
			${visible.map((node) => html`<${KINDS[node.kind] ?? Mark} key=${node.key} node=${node} data=${data} onSelect=${onSelect} />`)}
			${!follow && more}
			${result != null && !hidden && !entries.some((node) => node.kind === "model") && html`<${Result} result=${result} title="Result" />`}
			${tail}
		</div>
	</div>`;
}
