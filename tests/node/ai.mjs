// What Vercel's AI SDK makes of a server: `node ai.mjs BASE_URL` prints one JSON object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const provider = createOpenAICompatible({
  name: "runstore", baseURL: process.argv[2], apiKey: "devkey", includeUsage: true,
});
const ask = (model, prompt, more = {}) => ({
  model: provider(model), prompt, maxRetries: 0, onError: () => {}, ...more,
});
const count = "Count from 1 to 3";
const weather = tool({
  description: "The weather",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
  execute: async () => "sunny",
});
const settings = {
  temperature: 0, topP: 1, maxOutputTokens: 5, stopSequences: ["x"], seed: 1, presencePenalty: 0,
  tools: { weather }, toolChoice: "auto", stopWhen: stepCountIs(3),
};
const history = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Weather?" },
  {
    role: "assistant",
    content: [
      { type: "reasoning", text: "Hm." },
      { type: "text", text: "I look." },
      { type: "tool-call", toolCallId: "c1", toolName: "weather", input: { city: "Rome" } },
    ],
  },
  {
    role: "tool",
    content: [
      { type: "tool-result", toolCallId: "c1", toolName: "weather", output: { type: "text", value: "sunny" } },
    ],
  },
];

const found = ({ text, finishReason, usage }) => ({ text, finishReason, usage: usage.totalTokens });

async function read(result, onText = () => {}) {
  const seen = { text: "", error: null, last: null, finish: null, usage: null };
  for await (const part of result.fullStream) {
    seen.last = part.type;
    if (part.type === "text-delta") {
      seen.text += part.text;
      onText();
    }
    if (part.type === "error") seen.error = part.error.code;
    if (part.type === "finish") [seen.finish, seen.usage] = [part.finishReason, part.totalUsage.totalTokens];
  }
  return seen;
}

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { api: APICallError.isInstance(error), status: error.statusCode, message: error.message };
  }
}

async function superseded() {
  const session = { headers: { "X-Session-Id": "ai" } };
  let next = null;
  const older = await read(streamText(ask("talker", "Write a very long poem", session)), () => {
    next ??= generateText(ask("quick", count, session));
  });
  return { error: older.error, finish: older.finish, next: (await next).text };
}

async function aborted() {
  const controller = new AbortController();
  const long = ask("talker", "Write a very long poem, please", { abortSignal: controller.signal });
  return (await read(streamText(long), () => controller.abort())).last;
}

console.log(
  JSON.stringify({
    whole: found(await generateText(ask("quick", count))),
    streamed: await read(streamText(ask("quick", count))),
    settings: found(await generateText(ask("quick", count, settings))),
    history: (await generateText(ask("quick", undefined, { messages: history }))).text,
    superseded: await superseded(),
    aborted: await aborted(),
    noModel: await failure(generateText(ask("none", "hi"))),
  }),
);
