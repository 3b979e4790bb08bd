// The WebSocket to /v1/realtime; it opens again when the server was lost.

const LONGEST_WAIT_MS = 5000;

export class Realtime extends EventTarget {
  #socket = null;
  #wait = 250;
  #key = "";
  #opened = false;

  connect(key) {
    this.#key = key;
    const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/realtime`, protocols);
    this.#socket = socket;
    this.#opened = false;
    socket.onopen = () => {
      this.#wait = 250;
      this.#opened = true;
    };
    socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      this.dispatchEvent(new CustomEvent(event.type, { detail: event }));
    };
    socket.onclose = () => {
      this.dispatchEvent(new CustomEvent("lost", { detail: { opened: this.#opened } }));
      setTimeout(() => this.connect(this.#key), this.#wait);
      this.#wait = Math.min(LONGEST_WAIT_MS, this.#wait * 2);
    };
  }

  send(event) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  on(type, handle) {
    this.addEventListener(type, (event) => handle(event.detail));
  }
}
