"""`omni-edge devices`: microphones, loudspeakers and cameras."""

from __future__ import annotations

import dataclasses
import json

import typer

from omni_cli import options
from omni_cli.console import table
from omni_cli.sound_devices import SoundDevice, sound_devices
from omni_edge.errors import DeviceError, MediaError
from omni_edge.media.camera import Camera, cameras


def devices(*, as_json: options.Json = False, debug: options.Debug = False) -> None:
    """List microphones, loudspeakers and cameras. Without sound it lists the cameras and exits with 5."""
    failed: DeviceError | None = None
    sound: list[SoundDevice] = []
    try:
        sound = sound_devices()
    except DeviceError as error:
        failed = error
    try:
        pictures = cameras()
    except MediaError as error:
        pictures = []
        typer.echo(f"No cameras: {error}", err=True)
    if as_json:
        listed = {
            "microphones": [dataclasses.asdict(device) for device in sound if device.direction == "input"],
            "loudspeakers": [dataclasses.asdict(device) for device in sound if device.direction == "output"],
            "cameras": [dataclasses.asdict(camera) for camera in pictures],
        }
        typer.echo(json.dumps(listed, indent=1, ensure_ascii=False))
    elif sound or pictures:
        typer.echo(_text(sound, pictures))
    if failed is not None:
        raise failed
    if not sound:
        raise DeviceError("There is no microphone and no loudspeaker. Plug one in, or check the system's sound server.")


def _text(sound: list[SoundDevice], pictures: list[Camera]) -> str:
    kinds = {"input": "microphone", "output": "loudspeaker"}
    rows = [
        [
            kinds[device.direction],
            str(device.index),
            device.name,
            f"{device.rate} Hz",
            f"{device.channels} ch",
            "default" if device.default else "",
        ]
        for device in sound
    ]
    rows += [
        ["camera", str(camera.index), camera.name, f"{camera.fps:g} fps", f"{camera.width} x {camera.height}", ""]
        for camera in pictures
    ]
    return table(["kind", "number", "name", "rate", "size", ""], rows, right=(1, 3, 4))
