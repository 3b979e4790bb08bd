// What the buttons do, and what the events show.

import { Camera } from "/page/camera.js";
import { Realtime } from "/page/realtime.js";
import { Sound } from "/page/sound.js";

const find = (id) => document.getElementById(id);
const realtime = new Realtime();
const sound = new Sound();
const camera = new Camera(find("view"));
const FRAME_MS = 1000;
const turns = new Map();
let talking = false;
let pictures = [];
let reply = null; // { id, samples, ended, text, sound }
let turnEnded = 0;
let showing = 0; // the timer of the camera's pictures while the user speaks

function say(text) {
  find("state").textContent = text;
}

function turn(id, role) {
  if (!turns.has(id)) {
    const element = document.createElement("p");
    element.className = `turn ${role}`;
    find("transcript").append(element);
    turns.set(id, element);
  }
  return turns.get(id);
}

// The last words stay in sight.
function follow() {
  find("transcript").scrollTop = find("transcript").scrollHeight;
}

// Ends the reply where it was heard; the conversation keeps these words.
function interrupt() {
  if (!reply) return;
  const heard = Math.min(sound.stop(), Math.floor((1000 * reply.samples) / 24000));
  if (!reply.done) realtime.send({ type: "response.cancel" });
  if (reply.samples && (sound.playing || !reply.done)) {
    const cut = { item_id: reply.id, content_index: 0, audio_end_ms: heard };
    reply.truncate = cut;
    if (reply.done) realtime.send({ type: "conversation.item.truncate", ...cut });
    turn(reply.id, "assistant").classList.add("cut");
  }
  find("stop").disabled = true;
}

async function talk() {
  if (talking) {
    sound.mute();
  } else {
    try {
      await sound.listen((audio, level) => {
        find("level").value = level;
        if (!talking) return;
        realtime.send({ type: "input_audio_buffer.append", audio });
      });
    } catch (error) {
      say(window.isSecureContext ? `No microphone: ${error.message}` : "The microphone needs https or localhost");
      return;
    }
  }
  talking = !talking;
  find("talk").setAttribute("aria-pressed", String(talking));
  find("talk").textContent = talking ? "Stop talking" : "Talk";
  say(talking ? "Listening" : "Connected");
}

async function watch() {
  if (camera.on) {
    camera.stop();
    window.clearInterval(showing);
  } else {
    try {
      await camera.start();
    } catch (error) {
      say(window.isSecureContext ? `No camera: ${error.message}` : "The camera needs https or localhost");
      return;
    }
  }
  find("camera").setAttribute("aria-pressed", String(camera.on));
}

function own(picture, text) {
  return Object.assign(new Image(), { src: picture, alt: text });
}

// Sends what the camera sees; the turn shows the latest picture.
function show(element) {
  const picture = camera.picture();
  if (!picture) return;
  const content = [{ type: "input_image", image_url: picture }];
  realtime.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  element.querySelector("img")?.remove();
  element.prepend(own(picture, "What the camera saw"));
}

async function send(event) {
  event.preventDefault();
  const text = find("text").value.trim();
  if (!text && !pictures.length) return;
  await sound.open();
  interrupt();
  const seen = camera.picture();
  if (seen) pictures.push(seen);
  const content = pictures.map((picture) => ({ type: "input_image", image_url: picture }));
  if (text) content.push({ type: "input_text", text });
  const id = `page_${crypto.getRandomValues(new Uint32Array(2)).join("_")}`;
  const element = turn(id, "user");
  for (const picture of pictures) element.append(own(picture, "Your picture"));
  element.append(text);
  realtime.send({ type: "conversation.item.create", item: { id, type: "message", role: "user", content } });
  realtime.send({ type: "response.create" });
  turnEnded = performance.now();
  find("text").value = "";
  pictures = [];
  find("pictures").replaceChildren();
}

function take(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    const reader = new FileReader();
    reader.onload = () => {
      pictures.push(reader.result);
      const entry = document.createElement("li");
      entry.append(own(reader.result, file.name));
      find("pictures").append(entry);
    };
    reader.readAsDataURL(file);
  }
}

function figures() {
  const seconds = (time) => (time ? `${((time - turnEnded) / 1000).toFixed(2)} s` : "none");
  find("figures").textContent = `First text ${seconds(reply.text)}, first sound ${seconds(reply.sound)} after your turn.`;
}

realtime.on("session.created", async ({ session }) => {
  say(talking ? "Listening" : "Connected");
  reply = null;
  const chosen = find("voice").value || session.audio.output.voice;
  const key = sessionStorage.getItem("key");
  const answer = await fetch("/v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  const { data } = await answer.json();
  find("voice").replaceChildren(...data[0].voices.map((name) => new Option(name, name, false, name === chosen)));
  find("voice").disabled = false;
  if (chosen) choose(chosen);
});
realtime.on("lost", ({ opened }) => {
  say("Server lost. Connecting again");
  sound.stop();
  window.clearInterval(showing);
  if (!opened && !find("ask").open) {
    fetch("/v1/models", { headers: { Authorization: `Bearer ${sessionStorage.getItem("key")}` } }).then((answer) => {
      if (answer.status === 401) find("ask").showModal();
    }, () => undefined);
  }
});
realtime.on("input_audio_buffer.speech_started", ({ item_id }) => {
  interrupt();
  const element = turn(item_id, "user");
  element.textContent = "(speaking)";
  say("Listening");
  window.clearInterval(showing);
  show(element);
  showing = window.setInterval(() => show(element), FRAME_MS);
});
realtime.on("input_audio_buffer.speech_stopped", ({ item_id }) => {
  window.clearInterval(showing);
  turn(item_id, "user").lastChild.textContent = "(spoken)";
  turnEnded = performance.now();
  say("Thinking");
});
realtime.on("response.output_item.added", ({ item }) => {
  reply = { id: item.id, samples: 0, done: false, text: 0, sound: 0 };
  sound.begin();
  find("stop").disabled = false;
});
for (const kind of ["output_audio_transcript", "output_text"]) {
  realtime.on(`response.${kind}.delta`, ({ item_id, delta }) => {
    turn(item_id, "assistant").append(delta);
    reply.text ||= performance.now();
    figures();
  });
}
realtime.on("response.output_audio.delta", ({ delta }) => {
  if (reply.truncate) return;
  reply.samples += (atob(delta).length / 2) | 0;
  reply.sound ||= performance.now();
  sound.play(delta);
  say("Speaking");
  figures();
});
realtime.on("response.done", ({ response }) => {
  if (reply) {
    reply.done = true;
    if (reply.truncate) realtime.send({ type: "conversation.item.truncate", ...reply.truncate });
    find("voice").disabled = reply.samples > 0 || find("voice").disabled;
  }
  if (response.status === "failed") say(response.status_details.error.message);
  else say(talking ? "Listening" : "Connected");
});
realtime.on("error", ({ error }) => {
  if (error.code !== "response_cancel_not_active") say(error.message);
});

function choose(voice) {
  realtime.send({ type: "session.update", session: { type: "realtime", audio: { output: { voice } } } });
}

new MutationObserver(follow).observe(find("transcript"), { childList: true, subtree: true, characterData: true });
find("transcript").addEventListener("load", follow, true);
new ResizeObserver(follow).observe(find("transcript"));
find("talk").addEventListener("click", talk);
find("camera").addEventListener("click", watch);
find("stop").addEventListener("click", interrupt);
find("typed").addEventListener("submit", send);
find("voice").addEventListener("change", () => choose(find("voice").value));
find("file").addEventListener("change", ({ target }) => {
  take(target.files);
  target.value = ""; // the same file may be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, () => document.body.classList.remove("dropping"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
find("ask").addEventListener("close", () => {
  sessionStorage.setItem("key", find("key").value);
  realtime.connect(find("key").value);
});
realtime.connect(sessionStorage.getItem("key") ?? "");
