// Microphone and loudspeaker at the rate of the interface.

const RATE = 24000;

export class Sound {
  #context = null;
  #player = null;
  #stream = null;
  #source = null;
  #capture = null;
  played = 0;
  playing = false;

  async open() {
    if (this.#context) return this.#context.resume();
    const context = new AudioContext({ sampleRate: RATE });
    await context.audioWorklet.addModule("/page/worklets.js");
    this.#player = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    this.#player.port.onmessage = ({ data }) => Object.assign(this, data);
    this.#player.connect(context.destination);
    this.#context = context;
    return undefined;
  }

  // Calls take(base64, level) with blocks of 20 ms.
  async listen(take) {
    await this.open();
    // The model takes sound as it is; what the loudspeaker plays is not the user's.
    const wanted = { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: false };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    this.#source = this.#context.createMediaStreamSource(this.#stream);
    this.#capture = new AudioWorkletNode(this.#context, "capture", { numberOfOutputs: 0 });
    this.#capture.port.onmessage = ({ data }) => take(encode(data), level(data));
    this.#source.connect(this.#capture);
  }

  mute() {
    this.#source?.disconnect();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#source = this.#stream = null;
  }

  begin() {
    this.#player?.port.postMessage("begin");
    this.played = 0;
  }

  play(base64) {
    this.#player?.port.postMessage(decode(base64));
  }

  // Falls silent; returns the milliseconds that were played of what began last.
  stop() {
    this.#player?.port.postMessage("clear");
    return Math.floor((1000 * this.played) / RATE);
  }
}

function encode(samples) {
  const view = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((value, index) => view.setInt16(2 * index, Math.max(-1, Math.min(1, value)) * 32767, true));
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}

function level(samples) {
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
  return Math.max(0, 1 + Math.log10(power + 1e-12) / 6);
}
