// What OpenAI's client for Node makes of a server: `node chat.mjs BASE_URL` prints one JSON object.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "devkey", maxRetries: 0 });
const inSession = { headers: { "X-Session-Id": "node" } };

const ask = (content, options) =>
  client.chat.completions.create({ model: "demo", messages: [{ role: "user", content }] }, options);

const stream = (content, options) =>
  client.chat.completions.create(
    { model: "demo", stream: true, stream_options: { include_usage: true }, messages: [{ role: "user", content }] },
    options,
  );

async function read(chunks) {
  const found = { text: "", finish: null, usage: null };
  for await (const chunk of chunks) {
    found.text += chunk.choices[0]?.delta?.content ?? "";
    found.finish = chunk.choices[0]?.finish_reason ?? found.finish;
    found.usage = chunk.usage ?? found.usage;
  }
  return found;
}

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const long = await stream("Write a very long poem", inSession);
const superseded = failure(read(long));
const next = await ask("What is 2+2?", inSession);

console.log(
  JSON.stringify({
    models: (await client.models.list()).data.map((model) => model.id),
    whole: (await ask("Count from 1 to 3")).choices[0].message.content,
    streamed: await read(await stream("Count from 1 to 3")),
    next: next.choices[0].message.content,
    superseded: await superseded,
    noModel: await failure(client.chat.completions.create({ model: "none", messages: [{ role: "user", content: "hi" }] })),
    badRole: await failure(client.chat.completions.create({ messages: [{ role: "nobody", content: "hi" }] })),
  }),
);
