// The npm package `openai`: a typed turn, a spoken turn and a function over Realtime, and a chat completion.
// node openai_realtime.mjs ADDRESS WAV

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [address, file] = process.argv.slice(2);
const REPLY = "The kitchen light is on.";
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "unused" });

const answer = await client.chat.completions.create({
  model: "omni",
  modalities: ["text", "audio"],
  audio: { voice: "Chelsie", format: "wav" },
  messages: [{ role: "user", content: "turn on the kitchen light" }],
});
assert.equal(answer.choices[0].message.audio.transcript, REPLY);

// It opens wss: addresses only, so the server has a certificate, which NODE_EXTRA_CA_CERTS names.
const realtime = new OpenAIRealtimeWS({ model: "omni" }, client);
const waiting = [];
realtime.on("event", (event) => {
  for (const each of [...waiting]) {
    if (each.type !== event.type) continue;
    waiting.splice(waiting.indexOf(each), 1);
    each.resolve(event);
  }
});
realtime.on("error", (error) => {
  throw error;
});
const next = (type) => new Promise((resolve) => waiting.push({ type, resolve }));

await next("session.created");
realtime.send({ type: "session.update", session: { type: "realtime", output_modalities: ["audio"] } });
await next("session.updated");
realtime.send({
  type: "conversation.item.create",
  item: { type: "message", role: "user", content: [{ type: "input_text", text: "turn on the kitchen light" }] },
});
realtime.send({ type: "response.create" });
const typed = await next("response.done");
assert.equal(typed.response.output[0].content[0].transcript, REPLY);

// 16-bit PCM at 24 kHz in the file, and silence that ends the turn.
const samples = Buffer.concat([readFileSync(file).subarray(44), Buffer.alloc(48000)]);
for (let start = 0; start < samples.length; start += 960) {
  const audio = samples.subarray(start, start + 960).toString("base64");
  realtime.send({ type: "input_audio_buffer.append", audio });
}
const spoken = await next("response.done");
assert.equal(spoken.response.output[0].content[0].transcript, REPLY);
realtime.close();
console.log("openai (npm): chat completion, typed turn, spoken turn");
