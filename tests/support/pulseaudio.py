"""A PulseAudio server of the test's own, with a loudspeaker and a room that exist in software alone.

The room is a sink whose monitor is the default microphone: what is played into it is what the microphone records. The
loudspeaker's monitor is what a listener would hear.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PROGRAMS = ("pulseaudio", "pactl", "pacat")
LOUDSPEAKER, ROOM = "loudspeaker", "room"


class PulseAudio:
    """Runs within `with`.

    Args:
        folder: for its socket and its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        socket = folder / "native"
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_SERVER": f"unix:{socket}",
            # PortAudio lists ALSA's devices, of which one is PulseAudio.
            "PULSE_RUNTIME_PATH": str(folder),
        }
        self._command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        self._command += ["--log-target=stderr", "-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"]
        for sink in (LOUDSPEAKER, ROOM):
            self._command += ["-L", _sink(sink)]

    def __enter__(self) -> PulseAudio:
        with (self._folder / "pulseaudio.log").open("w") as log:
            self._server = subprocess.Popen(self._command, env=self.environment, stdout=log, stderr=log)
        for _ in range(200):
            if self._server.poll() is None and (self._folder / "native").exists():
                break
            time.sleep(0.05)
        self._set_default(LOUDSPEAKER)
        self._set_default(ROOM)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.terminate()
        self._server.wait(30)

    def control(self, *words: str) -> str:
        """What `pactl` answers."""
        result = subprocess.run(
            ["pactl", *words], env=self.environment, capture_output=True, text=True, timeout=30, check=True
        )
        return result.stdout.strip()

    def unplug(self, sink: str) -> None:
        """The device vanishes."""
        modules = [line.split("\t") for line in self.control("list", "short", "modules").splitlines()]
        (number,) = [each[0] for each in modules if f"sink_name={sink} " in f"{each[2]} "]
        self.control("unload-module", number)

    def plug(self, sink: str) -> None:
        """The device is there again, and the default one."""
        name, *words = _sink(sink).split()
        self.control("load-module", name, *words)
        self._set_default(sink)

    def _set_default(self, sink: str) -> None:
        if sink == LOUDSPEAKER:
            self.control("set-default-sink", sink)
        else:
            self.control("set-default-source", f"{sink}.monitor")

    def play(self, samples: NDArray[np.float32], rate: int, sink: str = ROOM) -> None:
        """Plays float32 [n] in real time; returns behind the last sample."""
        pcm = np.round(samples * 32767).astype("<i2").tobytes()
        subprocess.run(
            [*self._pacat("--playback", rate), f"--device={sink}"], env=self.environment, input=pcm, check=True
        )

    def record(self, rate: int, source: str = f"{LOUDSPEAKER}.monitor") -> Recording:
        """Begins to record."""
        command = [*self._pacat("--record", rate), f"--device={source}"]
        return Recording(command, self.environment, self._folder / "recording.pcm")

    @staticmethod
    def _pacat(direction: str, rate: int) -> list[str]:
        return ["pacat", direction, "--raw", "--format=s16le", f"--rate={rate}", "--channels=1", "--latency-msec=20"]


class Recording:
    """Sound that is being recorded, into a file: a pipe that nobody reads is full after a second."""

    def __init__(self, command: list[str], environment: dict[str, str], path: Path) -> None:
        self._path = path
        with path.open("wb") as file:
            self._program = subprocess.Popen(command, env=environment, stdout=file)

    def stop(self) -> NDArray[np.float32]:
        """Everything since the begin, float32 [n]."""
        time.sleep(0.5)  # What plays now is still in the server's buffers.
        self._program.terminate()
        self._program.wait(30)
        pcm = self._path.read_bytes()
        return np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768


def available() -> bool:
    """Whether this machine has the programs."""
    return all(map(shutil.which, PROGRAMS))


def _sink(name: str) -> str:
    return f"module-null-sink sink_name={name} rate=48000 channels=1"
