// On the audio thread: microphone blocks out, speech in, and a count of what was really played.

const BLOCK = 480;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }

  process([input]) {
    for (const value of input[0] ?? []) {
      this.block[this.filled++] = value;
      if (this.filled === BLOCK) {
        this.port.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    return true;
  }
}

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.waiting = [];
    this.place = 0;
    this.played = 0;
    this.port.onmessage = ({ data }) => {
      if (data === "begin") this.played = 0;
      else if (data === "clear") this.waiting = [];
      else this.waiting.push(data);
      if (data === "clear") this.place = 0;
    };
  }

  process(inputs, [output]) {
    const channel = output[0];
    let at = 0;
    while (at < channel.length && this.waiting.length) {
      const first = this.waiting[0];
      const count = Math.min(channel.length - at, first.length - this.place);
      channel.set(first.subarray(this.place, this.place + count), at);
      at += count;
      this.place += count;
      if (this.place === first.length) {
        this.waiting.shift();
        this.place = 0;
      }
    }
    this.played += at;
    this.port.postMessage({ played: this.played, playing: at > 0 });
    return true;
  }
}

registerProcessor("capture", Capture);
registerProcessor("playback", Playback);
