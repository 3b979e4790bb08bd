"""Opening and decoding of one container with PyAV (FFmpeg): which streams count, and what their damage means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omni_edge.errors import MediaError
from omni_edge.media.quiet import quiet
from omni_edge.media.source import Source

# A stream that ends before this part of what its container declares was cut off; one that lacks more is damaged.
COMPLETE_PART = 0.9
# Of all other containers FFmpeg guesses the length from the first bit rates that it sees.
_DECLARES_LENGTH = frozenset(
    {
        *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flac", "ogg"),
        *("aiff", "caf", "wav", "w64", "ape", "tta", "wv"),
    }
)
# Broadcasts are cut together: a jump in their time stamps is no pause.
_BROADCASTS = frozenset({"mpegts", "mpeg", "mpegtsraw"})
# Text: FFmpeg reads any of it as a terminal recording, and subtitles as containers.
_NO_MEDIA = frozenset({"tty", "ffmetadata", "webvtt", "srt", "ass", "subviewer", "microdvd", "sami", "lrc"})
# Frames of 8K films have 33 million pixels; several lie in memory at a time.
LARGEST_FRAME_PIXELS = 40_000_000
# A medium is one file. A playlist would open others, or addresses in the network.
_OPTIONS = {"protocol_whitelist": "none"}
_TOLERANT_PYAV = 19
_CONTAINER_CLOCK = 1_000_000  # FFmpeg counts a container's length in microseconds
# Telephones stop transmitting in a pause, but for a packet of so many bytes that describes its noise; FFmpeg's own
# decoders refuse those packets.
_PAUSING_CODECS = frozenset({"amrnb", "amrwb"})
_LARGEST_PAUSE_BYTES = 6


@contextmanager
def open_container(source: Source) -> Iterator[Any]:
    """The opened container; whatever FFmpeg raises meanwhile becomes a MediaError."""
    try:
        import av  # noqa: PLC0415
    except ImportError:
        raise MediaError(f"Reading {source.name} needs PyAV. Install it: pip install 'omni-edge[media]'") from None
    source.file.seek(0)
    # Tags in other encodings than UTF-8: since version 19 PyAV always passes them over, before it has to be asked to.
    tags = {} if int(av.__version__.partition(".")[0]) >= _TOLERANT_PYAV else {"metadata_errors": "ignore"}
    try:
        with quiet(), av.open(source.file, container_options=_OPTIONS, **tags) as container:
            if container.format.name in _NO_MEDIA:
                raise MediaError(f"{source.name} is text, not a sound or video. Name another file.")
            yield container
    except (av.FFmpegError, ValueError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{source.name} cannot be decoded ({reason}): it is no sound or video, or it is damaged or cut "
            "off. Copy it again, or convert it."
        ) from None


def is_broadcast(container: Any) -> bool:
    """True for containers whose time stamps jump where they were cut together."""
    return container.format.name in _BROADCASTS


def by_preference(streams: list[Any]) -> list[Any]:
    """Streams flagged as default first, otherwise in the file's order."""
    import av  # noqa: PLC0415

    return sorted(streams, key=lambda stream: not stream.disposition & av.stream.Disposition.default)


def decodable(stream: Any, source: Source) -> Any:
    """The stream itself.

    Raises:
        MediaError: this build of FFmpeg has no decoder for it.
    """
    if stream.codec_context is None:
        raise MediaError(
            f"{source.name} uses a codec that this build of FFmpeg lacks. Convert it, for example to FLAC or MP4."
        )
    return stream


class Decoding:
    """The decoded frames of one stream, in order.

    A packet that cannot be decoded is left out, as players do: files with a damaged packet, or with junk around the
    sound, are common. Of more than a tenth of them the file counts as damaged.

    Attributes:
        pauses: the codec leaves pauses out.
        end: time at which the last packet ends, in seconds; None where packets have no time stamps.
    """

    def __init__(self, container: Any, stream: Any, source: Source) -> None:
        self._container, self._stream, self._source = container, stream, source
        self.pauses = stream.codec_context.name in _PAUSING_CODECS
        self.end: float | None = None

    def __iter__(self) -> Iterator[Any]:
        import av  # noqa: PLC0415

        packets = failed = 0
        reason: object = None
        for packet in self._container.demux(self._stream):
            packets += bool(packet.size)
            self._note_end(packet)
            try:
                frames = packet.decode()
            except av.error.EOFError:
                continue  # a flush after a flush
            except (av.error.InvalidDataError, av.error.PatchWelcomeError) as error:
                if not (self.pauses and packet.size <= _LARGEST_PAUSE_BYTES):
                    failed += 1
                    reason = error.strerror
                continue
            yield from frames
        if failed and failed > (1 - COMPLETE_PART) * packets:
            raise MediaError(
                f"{self._source.name} is damaged or cut off: {failed} of its {packets} packets cannot be decoded "
                f"({reason}). Copy it again, or convert it."
            )

    def _note_end(self, packet: Any) -> None:
        start = packet.pts if packet.pts is not None else packet.dts
        if packet.size and start is not None and packet.time_base is not None:
            end = float((start + (packet.duration or 0)) * packet.time_base)
            self.end = end if self.end is None else max(self.end, end)


def check_length(container: Any, stream: Any, source: Source, seconds: float) -> None:
    """Refuses a file that is much shorter than its container declares.

    Args:
        container: the opened file.
        stream: the one that was read to its end.
        source: for the message.
        seconds: from the start to the end of the stream.
    """
    if container.format.name not in _DECLARES_LENGTH:
        return
    if stream.duration is not None and stream.time_base is not None:
        declared = float(stream.duration * stream.time_base)
    elif container.duration is not None and all(other.type == stream.type for other in container.streams):
        declared = container.duration / _CONTAINER_CLOCK
    else:
        return
    if seconds < COMPLETE_PART * declared:
        raise MediaError(
            f"{source.name} is cut off: it declares {declared:.1f} s and holds {seconds:.1f} s. Copy it again."
        )
