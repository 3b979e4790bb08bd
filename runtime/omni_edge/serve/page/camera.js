// The camera, and single pictures of it.

const WIDTH = 448;
const QUALITY = 0.8;

export class Camera {
  #view;

  // view: the <video> element that shows what the camera sees.
  constructor(view) {
    this.#view = view;
  }

  get on() {
    return this.#view.srcObject !== null;
  }

  async start() {
    const wanted = { width: { ideal: 2 * WIDTH }, facingMode: { ideal: "environment" } };
    this.#view.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
    this.#view.hidden = false;
    await this.#view.play();
  }

  stop() {
    this.#view.srcObject?.getTracks().forEach((track) => track.stop());
    this.#view.srcObject = null;
    this.#view.hidden = true;
  }

  // The present picture as a data: URI; null: there is none yet.
  picture() {
    const { videoWidth, videoHeight } = this.#view;
    if (!this.on || !videoWidth) return null;
    const scale = Math.min(1, WIDTH / videoWidth);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(videoWidth * scale);
    canvas.height = Math.round(videoHeight * scale);
    canvas.getContext("2d").drawImage(this.#view, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", QUALITY);
  }
}
