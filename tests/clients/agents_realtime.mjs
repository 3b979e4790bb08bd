// The npm package `@openai/agents`: a Realtime session over a WebSocket, typed and spoken.
// node agents_realtime.mjs ADDRESS WAV

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { RealtimeAgent, RealtimeSession } from "@openai/agents/realtime";

const [address, file] = process.argv.slice(2);
const REPLY = "The kitchen light is on.";
const agent = new RealtimeAgent({ name: "omni", instructions: "" });
const session = new RealtimeSession(agent, { transport: "websocket", model: "omni" });
let sound = 0;
session.on("error", (error) => {
  console.error("session error:", JSON.stringify(error, null, 1));
  process.exit(1);
});
session.transport.on("audio", ({ data }) => {
  sound += data.byteLength;
});
const next = (type) => new Promise((resolve) => session.transport.once(type, resolve));
const said = async () => {
  await next("turn_done");
  const last = session.history.findLast((item) => item.role === "assistant");
  return last.content.map((part) => part.transcript ?? part.text).join("");
};

const url = `${address.replace(/^http/, "ws")}/v1/realtime?model=omni`;
await session.connect({ apiKey: "unused", url });
session.sendMessage("turn on the kitchen light");
assert.equal(await said(), REPLY);
assert.ok(sound > 24000);

const samples = Buffer.concat([readFileSync(file).subarray(44), Buffer.alloc(48000)]);
for (let start = 0; start < samples.length; start += 960) {
  const block = samples.subarray(start, start + 960);
  session.sendAudio(block.buffer.slice(block.byteOffset, block.byteOffset + block.length));
}
assert.equal(await said(), REPLY);
session.close();
console.log("@openai/agents (npm): typed turn, spoken turn");
