// A run's steps as a tree: attempts, agents, model calls, tool calls, and what happened beside them.

export const ENDINGS = { "lifecycle.completed": "success", "lifecycle.failed": "error", "lifecycle.cancelled": "stopped" };
export const isEnding = ({ type }) => type in ENDINGS;
export const isStreamed = ({ type }) => type === "llm.token" || type === "llm.reasoning";

const nodeOf = (step) => ({
	status: "running", text: "", reasoning: "", retries: [], progress: [], input: null, ...step,
	start: Date.parse(step.started_at), end: step.ended_at ? Date.parse(step.ended_at) : null, parentKey: step.parent,
});

/** An answer of `GET /runs/{run_id}/steps` with its `roots`, and all nodes `byKey`. before: the tree that it changes. */
export function treeOf(page, before = { byKey: new Map() }) {
	const byKey = new Map(before.byKey);
	for (const step of page.data) byKey.set(step.key, nodeOf(step));
	const roots = [];
	for (const node of byKey.values()) node.children = [];
	for (const node of byKey.values()) {
		node.parent = byKey.get(node.parentKey) ?? null;
		(node.parent?.children ?? roots).push(node);
	}
	return { ...page, input: page.input ?? before.input, roots, byKey, version: 0 };
}

export function say(tree, { type, at, data }) {
	const fits = ({ kind, status, parent }) => kind === "model" && status === "running" && parent.path === data.agent && parent.call_id == data.call_id;
	const call = [...tree.byKey.values()].findLast(fits);
	if (!call) return; // its step comes with the next answer
	call[type === "llm.token" ? "text" : "reasoning"] += data.text;
	if (type === "llm.token") call.first_at ??= at;
	tree.version += 1;
}

export const saidBy = ({ content, text }) => content?.map((block) => block.text ?? "").join("") ?? text;

export const reasoningOf = ({ content, reasoning }) => content?.map((block) => block.reasoningContent?.reasoningText?.text ?? "").join("") || reasoning;

/** The tree as rows, `{node, depth}`: children of `closed` nodes are left out. */
export const rowsOf = (nodes, closed, depth = 0) => nodes.flatMap((node) => [{ node, depth }, ...(closed.has(node.key) ? [] : rowsOf(node.children, closed, depth + 1))]);

/** The nodes that are entries of a transcript, in the order in which they began. */
export const entriesOf = (tree) => [...tree.byKey.values()].filter(({ kind, attempt }) => (kind === "attempt" ? attempt > 1 : kind !== "agent"));
