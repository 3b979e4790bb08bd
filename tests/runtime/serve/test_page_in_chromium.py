"""The page at `/` in a real browser: its microphone plays a file, and what its loudspeaker would play is recorded."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge import OmniEdge
from omni_edge.media import load_audio
from omni_edge.media.wav import read_wave
from omni_edge.serve.settings import ServeSettings
from support.chromium import PROGRAM, Browser, BrowserPage, chromium
from support.commands import write_wav
from support.served import Served, served
from support.spoken import silence

# What plays in real time needs the machine for itself, and 20 s; the workflow runs it.
pytestmark = pytest.mark.skipif(
    PROGRAM is None or not os.environ.get("REAL_BROWSER"),
    reason="needs Chromium and REAL_BROWSER=1 (as in the workflow)",
)

ROOT = Path(__file__).parents[3]
RATE = 24_000
PIECE = 1200
REPLY = "The kitchen light is on."
# Records what reaches the loudspeaker, beside it and without loss.
TAP = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (...to) {
  if (to[0] instanceof AudioDestinationNode) {
    const copy = this.context.createMediaStreamDestination();
    connect.call(this, copy);
    const recorder = new MediaRecorder(copy.stream, { mimeType: "audio/webm;codecs=pcm" });
    const pieces = [];
    recorder.ondataavailable = ({ data }) => pieces.push(data);
    recorder.start();
    window.heard = () => new Promise((resolve) => {
      recorder.onstop = () => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.readAsDataURL(new Blob(pieces));
      };
      recorder.stop();
    });
  }
  return connect.apply(this, to);
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its user asks, and asks again 2.5 s later."""
    folder = tmp_path_factory.mktemp("chromium")
    request, rate = read_wave(ROOT / "examples" / "turn-on-the-kitchen-light.wav", 10)
    assert rate == 16_000
    write_wav(folder / "microphone.wav", np.concatenate([silence(0.7), request, silence(2.5), request, silence(20)]))
    with chromium(folder, folder / "microphone.wav") as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def page_of(browser: Browser, server: Served) -> Iterator[BrowserPage]:
    """The page, connected."""
    with browser.page() as page:
        page.open(server.address, TAP)
        page.wait("document.getElementById('state')?.textContent === 'Connected'")
        page.wait("!document.getElementById('voice').disabled")
        yield page
        assert page.faults == []


def write(page: BrowserPage, text: str) -> None:
    """Sends a typed turn."""
    page.run(f"document.getElementById('text').value = {text!r}")
    page.run("document.getElementById('typed').requestSubmit()")


def transcript(page: BrowserPage) -> list[tuple[str, str]]:
    """Class and text of each turn."""
    shown = page.run("[...document.querySelectorAll('.turn')].map((turn) => [turn.className, turn.innerText.trim()])")
    return [(kind, text) for kind, text in shown]


def spoken(page: BrowserPage) -> NDArray[np.float32]:
    """What the server sent as speech, float32 [n]."""
    deltas = [event["delta"] for event in page.received if event["type"] == "response.output_audio.delta"]
    return np.frombuffer(b"".join(map(base64.b64decode, deltas)), "<i2").astype(np.float32) / 32768


def heard(page: BrowserPage, file: Path) -> NDArray[np.float32]:
    """What reached the loudspeaker, float32 [n]; the recording goes to `file`."""
    file.write_bytes(base64.b64decode(page.run("window.heard()").partition(",")[2]))
    sound = load_audio(file)
    assert sound.rate == RATE
    return sound.samples


def place_of(piece: NDArray[np.float32], within: NDArray[np.float32]) -> int | None:
    """Where a signal holds a piece as it is, by their normalized correlation; None: nowhere."""
    size = 1 << (within.size + piece.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(within, size) * np.conj(np.fft.rfft(piece, size)), size)
    energy = np.cumsum(np.concatenate([[0.0], within.astype(np.float64) ** 2]))
    windows = energy[piece.size :] - energy[: -piece.size]
    correlation = product[: windows.size] / np.sqrt(np.maximum(windows, 1e-9) * float(np.sum(piece**2)))
    place = int(np.argmax(correlation))
    return place if correlation[place] > 0.999 else None


def frames(page: BrowserPage) -> list[str]:
    """The pictures that were sent, as data: URIs."""
    items: list[Any] = [event["item"] for event in page.sent if event["type"] == "conversation.item.create"]
    return [part["image_url"] for item in items for part in item["content"] if part["type"] == "input_image"]


def test_a_question_is_heard_and_its_answer_is_played(
    browser: Browser, server: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with page_of(browser, server) as page:
        page.click("#talk")
        page.event("input_audio_buffer.speech_stopped")
        page.click("#talk")
        done = page.event("response.done")["response"]
        assert (done["status"], done["output"][0]["content"][0]["transcript"]) == ("completed", REPLY)
        assert page.text("#talk") == "Talk"
        assert transcript(page) == [("turn user", "(spoken)"), ("turn assistant", REPLY)]
        assert page.text("#figures").startswith("First text 0.")
        sent = spoken(page)
        assert 0.5 < sent.size / RATE < 6
        time.sleep(sent.size / RATE + 0.5)
        played = heard(page, tmp_path / "heard.webm")
        pieces = [piece for piece in np.split(sent, range(PIECE, sent.size, PIECE)) if np.std(piece) > 0.01]
        places = [place for place in (place_of(piece, played) for piece in pieces) if place is not None]
        assert places == sorted(places)
        # A loaded machine plays it with gaps, and a piece with a gap is not found.
        assert len(places) > 0.7 * len(pieces) > 7
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_button_interrupts_and_a_picture_is_seen(browser: Browser, server: Served) -> None:
    with page_of(browser, server) as page:
        page.command("Emulation.setDeviceMetricsOverride", width=390, height=500, deviceScaleFactor=1, mobile=True)
        write(page, "turn on the kitchen light")
        page.wait("/First sound 0/i.test(document.getElementById('figures').textContent)")
        page.click("#stop")
        truncated = page.event("conversation.item.truncated")
        assert 0 <= truncated["audio_end_ms"] < 1000 * spoken(page).size / RATE
        page.wait("document.querySelectorAll('.assistant.cut').length === 1")
        start = len(page.received)
        for count in (1, 2):
            page.choose_file("#file", ROOT / "tests" / "data" / "cat.png")
            page.wait(f"document.querySelectorAll('#pictures img').length === {count}")
        write(page, "what is this")
        done = page.event("response.done", start)["response"]
        assert done["status"] == "completed"
        assert [uri[:22] for uri in frames(page)] == 2 * ["data:image/png;base64,"]
        assert page.run("document.querySelectorAll('.user img').length") == 2
        assert page.run("document.querySelectorAll('#pictures img').length") == 0
        # The last words are in sight.
        page.wait(
            "(({scrollHeight: all, scrollTop: top, clientHeight: part}) => all > part && all - top - part < 2)"
            "(document.getElementById('transcript'))"
        )


def test_the_camera_shows_what_is_spoken_about(browser: Browser, server: Served) -> None:
    with page_of(browser, server) as page:
        page.click("#camera")
        page.wait("document.getElementById('view').videoWidth > 0 && !document.getElementById('view').hidden")
        page.click("#talk")
        page.event("input_audio_buffer.speech_stopped")
        page.click("#talk")
        # The built-in model was trained on other pictures, and may go on for long.
        page.event("response.output_audio.delta")
        page.click("#stop")
        page.event("response.done")
        sent = frames(page)
        assert 1 <= len(sent) <= 4
        assert len(set(sent)) == len(sent)
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in sent)
        # They stand behind the sound, which was prefilled while it was spoken.
        items = {event["item"]["id"]: event for event in page.received if event["type"] == "conversation.item.added"}
        (spoken_turn,) = (event for event in page.received if event["type"] == "input_audio_buffer.committed")
        assert spoken_turn["previous_item_id"] is None
        assert len(items) == len(sent) + 2
        page.click("#camera")
        assert page.run("document.getElementById('view').hidden")


def test_a_lost_server_is_found_again_and_speech_interrupts(browser: Browser, nano: OmniEdge, engine: OmniEdge) -> None:
    with browser.page() as page:
        with served(nano, ServeSettings(port=0)) as first:
            page.open(first.address, TAP)
            page.wait("document.getElementById('state')?.textContent === 'Connected'")
        page.wait("document.getElementById('state').textContent.startsWith('Server lost')")
        # This one's replies end by their limits alone.
        with served(engine, ServeSettings(port=first.port)) as second:
            assert second.address == first.address
            page.wait("document.getElementById('state').textContent === 'Connected'")
            page.click("#talk")
            done = page.event("response.done")["response"]
            assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
            page.wait("document.querySelectorAll('.assistant.cut').length === 1")
            page.click("#talk")
        # Chromium reports connections that fail.
        assert [fault for fault in page.faults if "ERR_CONNECTION_REFUSED" not in fault] == []
