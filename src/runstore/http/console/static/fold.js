// A run as a tree of its events: attempts, agents, model calls, tool calls, and what happened beside them.
//
// The fold takes events in the order of their seq, and may begin in the middle of a run. It never looks back
// further than to the open calls, so each event costs the same.

const ENDINGS = { "lifecycle.completed": "success", "lifecycle.failed": "error", "lifecycle.cancelled": "stopped" };

/** All types but the streamed text, which finished calls repeat in their message. */
export const STRUCTURE = "lifecycle.*,agent.*,tool.*,cancel.*,input.*,custom.*,run.*,llm.request,llm.message,llm.usage,llm.discarded,llm.retrying,llm.redacted,llm.input_replaced,llm.context_reduced";
export const isEnding = (event) => event.type in ENDINGS;
export const isStreamed = (event) => event.type === "llm.token" || event.type === "llm.reasoning";

const aboveOf = (path) => path.split("/").slice(0, -1).join("/");

export class Fold {
  constructor(runId) {
    this.runId = runId;
    this.roots = []; // attempts, and what happened outside of one
    this.byKey = new Map(); // every node, by its key
    this.status = "queued";
    this.queued = null;
    this.ending = null;
    this.usage = { input_tokens: 0, output_tokens: 0, cache_read_tokens: 0, cache_write_tokens: 0, reasoning_tokens: 0, calls: 0 };
    this.last = 0; // the seq of the last event
    this.lastAt = null;
    this.requests = new Map(); // open input requests, by id
    this.from = 0; // events up to this seq are left out
    this.cut = null; // `{from, to}`: streamed text between these events is not loaded
    this.requestsMade = 0; // requests to models
    this.version = 0; // grows with each change
    this.#begin();
  }

  #mute = Infinity; // the seq before the first text of an ended call that no message repeats
  #attempt = null;
  #open = new Map(); // agents at work: by path and call
  #tools = new Map(); // tool calls under way: by agent and id, since two agents may use the same ids

  #begin() {
    this.#open.clear();
    this.#tools.clear();
  }

  add(event) {
    this.last = event.seq;
    this.lastAt = event.at;
    this.version += 1;
    const { type } = event;
    if (type in ENDINGS) return this.#end(event);
    if (type.startsWith("custom.")) return this.#mark(event, type.slice(7), "note");
    const handle = HANDLERS[type];
    if (handle) return handle.call(this, event, Date.parse(event.at));
    return undefined;
  }

  addAll(events) {
    for (const event of events) this.add(event);
    return this;
  }

  /** The seq after which all text lies that no message repeats: of open calls, and of agents without messages. */
  get unsaid() {
    const said = [...this.#open.values()].map((agent) => agent.said);
    return Math.min(this.#mute, this.last, ...said);
  }

  // ---- nodes ----

  #node(parent, kind, event, fields) {
    const at = Date.parse(event.at);
    const key = `${kind}-${event.seq}`;
    const node = { key, kind, seq: event.seq, lastSeq: event.seq, start: at, end: null, status: "running", children: [], parent, ...fields };
    (parent ? parent.children : this.roots).push(node);
    this.byKey.set(key, node);
    return node;
  }

  #mark(event, name, kind, fields = {}) {
    const at = Date.parse(event.at);
    return this.#node(this.#attempt, kind, event, { name, status: "", end: at, data: event.data, by: event.by ?? event.data?.by, ...fields });
  }

  #place(event) {
    return (this.#attempt ??= this.#node(null, "attempt", event, { name: "Attempt", attempt: 0, reason: "recorded" }));
  }

  /** The agent that an event is of. */
  #agent(event) {
    const { agent, call_id: callId = null } = event.data;
    const key = `${agent} ${callId}`;
    let node = this.#open.get(key);
    if (!node) {
      const above = this.#toolOf(agent, callId) ?? this.#parentOf(agent) ?? this.#place(event);
      node = this.#node(above, "agent", event, { name: agent.split("/").at(-1), path: agent, callId, call: null, asked: null, since: Date.parse(event.at), said: event.seq - 1, spoke: false });
      this.#open.set(key, node);
    }
    return node;
  }

  /** The tool call under way that an inner agent works for. */
  #toolOf(path, callId) {
    if (callId === null) return null;
    const fitting = [...this.#tools.values()].filter((tool) => tool.id === callId);
    return fitting.find((tool) => tool.parent.path === aboveOf(path)) ?? fitting.at(-1) ?? null;
  }

  #parentOf(path) {
    const above = aboveOf(path);
    if (!above) return null;
    for (const node of this.#open.values()) if (node.path === above) return node;
    return null;
  }

  /** The model call under way of an agent. */
  #call(event, { fresh = false } = {}) {
    const agent = this.#agent(event);
    if (!agent.call || fresh) {
      agent.call = this.#node(agent, "model", event, {
        name: "model", start: agent.since, input: agent.asked, tokens: [], reasoning: [], content: null, usage: null, retries: [], request: null,
      });
      agent.asked = null;
    }
    const call = agent.call;
    call.lastSeq = event.seq;
    return call;
  }

  /** End what is open. status: of what has not ended by itself. */
  #close(at, status = "lost") {
    for (const node of [...this.#open.values(), ...this.#tools.values()]) {
      if (node.status === "running") node.status = status;
      node.end ??= at;
      if (node.kind === "agent") this.#finish(node, at, status);
    }
    if (this.#attempt) this.#attempt.end ??= at;
    this.#begin();
  }

  /** End the call of an agent that is done. */
  #finish(agent, at, status) {
    const { call } = agent;
    if (!agent.spoke || (call && !call.content && call.status === "running")) this.#mute = Math.min(this.#mute, agent.said);
    if (call?.status === "running") Object.assign(call, { status, end: at });
  }

  #end(event) {
    const at = Date.parse(event.at);
    this.status = ENDINGS[event.type];
    this.ending = event;
    const attempt = this.#attempt;
    this.#close(at, this.status === "success" ? "success" : "lost");
    if (attempt) {
      attempt.status = this.status;
      attempt.lastSeq = event.seq;
    }
    this.#mark(event, { success: "done", error: event.data.code, stopped: `stopped: ${event.data.reason}` }[this.status], "end", { status: this.status });
    this.#attempt = null;
  }

  // ---- one handler for each type ----

  static handlers = {
    "lifecycle.queued"(event) {
      this.queued = event;
    },
    "lifecycle.started"(event, at) {
      if (this.#attempt) this.#attempt.status = "lost";
      this.#close(at);
      const { attempt, reason, worker_id: worker, discard_after_seq: after } = event.data;
      if (after !== undefined && after !== null) {
        for (const node of this.byKey.values()) {
          if (node.kind === "model" && node.seq > after && node.status !== "discarded") Object.assign(node, { status: "discarded", discarded: "said again by the next attempt" });
        }
      }
      this.status = "running";
      this.#attempt = this.#node(null, "attempt", event, { name: `Attempt ${attempt}`, attempt, reason, worker });
    },
    "agent.started"(event, at) {
      this.#open.delete(`${event.data.agent} ${event.data.call_id ?? null}`);
      this.#agent(event).since = at;
    },
    "agent.finished"(event, at) {
      const agent = this.#agent(event);
      Object.assign(agent, { end: at, status: "success", lastSeq: event.seq });
      this.#finish(agent, at, "success");
    },
    "llm.token"(event, at) {
      const call = this.#call(event, { fresh: this.#isSaid(event) });
      call.firstToken ??= at;
      call.tokens.push({ seq: event.seq, text: event.data.text });
    },
    "llm.reasoning"(event) {
      const call = this.#call(event, { fresh: this.#isSaid(event) });
      call.reasoning.push({ seq: event.seq, text: event.data.text });
    },
    "llm.request"(event, at) {
      const agent = this.#agent(event);
      agent.since = at;
      const call = this.#call(event, { fresh: true });
      call.request = event;
      this.requestsMade += 1;
      call.requestNumber = this.requestsMade;
      if (event.data.model) call.name = event.data.model;
    },
    "llm.message"(event, at) {
      const { message } = event.data;
      const agent = this.#agent(event);
      agent.said = event.seq;
      agent.spoke ||= message.role === "assistant";
      if (message.role !== "assistant") {
        Object.assign(agent, { asked: message.content, since: at });
        return;
      }
      const call = this.#call(event, { fresh: this.#isSaid(event) && !agent.call.more });
      call.content = call.more ? [...call.content, ...message.content] : message.content;
      call.more = event.data.more === true;
      Object.assign(call, { status: "success", end: at, tokens: [], reasoning: [] });
      agent.since = at;
    },
    "llm.usage"(event, at) {
      const call = this.#call(event, { fresh: Boolean(this.#open.get(this.#keyOf(event))?.call?.usage) });
      const { model, duration_ms: took, incomplete } = event.data;
      call.usage = event.data;
      if (model) call.name = model;
      if (took !== undefined && took !== null) call.start = Math.max(call.parent.start, at - took);
      if (call.status === "running" && !incomplete) Object.assign(call, { status: "success", end: at });
      call.end ??= at;
      for (const name of Object.keys(this.usage)) this.usage[name] += event.data[name] ?? 0;
      this.usage.calls += 1;
      this.#agent(event).since = at;
    },
    "llm.discarded"(event, at) {
      const agent = this.#agent(event);
      const { reason, from_seq: from } = event.data;
      const call = agent.call;
      if (!call) return;
      call.lastSeq = event.seq;
      call.tokens = call.tokens.filter((token) => token.seq < from);
      call.reasoning = call.reasoning.filter((token) => token.seq < from);
      if (reason !== "retried") {
        Object.assign(call, { status: "discarded", discarded: reason, end: at, content: reason === "redacted" ? null : call.content });
        agent.call = null;
        agent.since = at;
      }
    },
    "llm.retrying"(event) {
      const call = this.#call(event, { fresh: this.#isSaid(event) });
      call.retries.push(event.data);
    },
    "llm.input_replaced"(event) {
      this.#agent(event).asked = event.data.messages.flatMap((message) => message.content ?? []);
    },
    "tool.started"(event) {
      const agent = this.#agent(event);
      const { tool_use_id: id, name, input, at_most_once: once } = event.data;
      this.#tools.set(this.#toolKey(event), this.#node(agent, "tool", event, { name, id, input, once, output: undefined, progress: [] }));
    },
    "tool.progress"(event) {
      const tool = this.#tools.get(this.#toolKey(event));
      if (!tool) return;
      tool.progress.push(event);
      tool.lastSeq = event.seq;
    },
    "tool.finished"(event, at) {
      this.#finishTool(event, at, "success");
    },
    "tool.failed"(event, at) {
      this.#finishTool(event, at, "error");
    },
    "cancel.requested"(event) {
      this.#mark(event, `stop asked for: ${event.data.reason}`, "cancel", { status: "stopping" });
    },
    "input.requested"(event) {
      this.requests.set(event.data.request_id, event);
      this.status = "waiting";
      const node = this.#node(this.#agent(event), "question", event, { name: event.data.prompt, status: "waiting", data: event.data });
      this.#tools.set(`request ${event.data.request_id}`, node);
    },
    "input.given"(event, at) {
      const { request_id: id } = event.data;
      const node = [...this.byKey.values()].findLast((each) => each.kind === "question" && each.data.request_id === id);
      if (node) Object.assign(node, { status: "success", end: at, answer: event.data, lastSeq: event.seq });
      this.requests.delete(id);
      if (!this.requests.size && this.status === "waiting") this.status = "queued";
    },
    "input.added"(event) {
      this.#mark(event, "message added", "added");
    },
  };

  #keyOf(event) {
    return `${event.data.agent} ${event.data.call_id ?? null}`;
  }

  #toolKey(event) {
    return `${this.#keyOf(event)} ${event.data.tool_use_id}`;
  }

  /** Whether the open call of an event's agent is complete, so that the event begins another one. */
  #isSaid(event) {
    const call = this.#open.get(this.#keyOf(event))?.call;
    return Boolean(call && call.content);
  }

  #finishTool(event, at, status) {
    const { tool_use_id: id, name, output } = event.data;
    const tool = this.#tools.get(this.#toolKey(event)) ?? this.#node(this.#agent(event), "tool", event, { name, id, input: undefined, progress: [] });
    Object.assign(tool, { status, output, end: at, lastSeq: event.seq });
    this.#tools.delete(this.#toolKey(event));
    this.#agent(event).since = at;
  }
}

const HANDLERS = Fold.handlers;

/** The text of a model call: what it said so far, or its complete message. */
export function textOf(call) {
  if (call.content) return call.content.map((block) => block.text ?? "").join("");
  return call.tokens.map((token) => token.text).join("");
}

/** When a model call said its first text, in ms; null if that is not known. */
export const firstOf = (call) => call.firstToken ?? (call.usage?.first_token_ms ? call.start + call.usage.first_token_ms : null);

export function reasoningOf(call) {
  const blocks = call.content?.map((block) => block.reasoningContent?.reasoningText?.text ?? "").join("");
  return blocks || call.reasoning.map((token) => token.text).join("");
}

/** The tree as rows, `{node, depth}`: children of `closed` nodes are left out. */
export function rowsOf(roots, closed) {
  const rows = [];
  const walk = (nodes, depth) => {
    for (const node of nodes) {
      rows.push({ node, depth });
      if (node.children.length && !closed.has(node.key)) walk(node.children, depth + 1);
    }
  };
  walk(roots, 0);
  return rows;
}
