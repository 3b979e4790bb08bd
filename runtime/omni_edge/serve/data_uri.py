"""Sounds, pictures and videos that come inside a request; an address in the network is never opened."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from io import BytesIO

from omni_edge.bundle.manifest import VisionSection
from omni_edge.events import Media
from omni_edge.media.load import load_audio, load_image, load_video
from omni_edge.serve.cached_conversation import UserPart
from omni_edge.serve.faults import RequestError
from omni_edge.serve.settings import Limits


@dataclass(frozen=True)
class Attachment:
    """A file inside a request, not decoded yet.

    Attributes:
        kind: "audio", "image" or "video".
        data: the file.
        param: where it stands in the request.
        sound: of a video: whether its sound is taken.
    """

    kind: str
    data: bytes
    param: str
    sound: bool = True

    @property
    def key(self) -> str:
        """The same for equal files."""
        return f"{self.kind} {self.sound} {hashlib.sha256(self.data).hexdigest()}"

    def decode(self, vision: VisionSection, limits: Limits) -> UserPart:
        """The file as a part of the user's turn. It takes time: for another thread than the server's.

        Raises:
            MediaError: it cannot be used.
        """
        file = BytesIO(self.data)
        item: Media
        if self.kind == "audio":
            item = load_audio(file, longest=limits.sound)
        elif self.kind == "image":
            item = load_image(file)
        else:
            item = load_video(file, vision, sound=self.sound, longest=limits.sound)
        return UserPart(self.key, item)


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of base64 text.

    Raises:
        RequestError: it is none, or it is empty.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{param} is not valid base64.", code="invalid_base64", param=param) from None
    if not data:
        raise RequestError(f"{param} is empty.", code="invalid_value", param=param)
    return data


def read_data_uri(uri: str, kind: str, param: str, *, sound: bool = True) -> Attachment:
    """The file in a `data:` URI.

    Args:
        uri: `data:image/png;base64,...`, for instance.
        kind: "audio", "image" or "video"; the URI's media type has to begin with it.
        param: where it stands in the request.
        sound: of a video: whether its sound is taken.

    Raises:
        RequestError: another kind of address, or it is malformed.
    """
    head, comma, body = uri.partition(",")
    if not head.lower().startswith("data:") or not comma:
        raise RequestError(
            f"{param} must be a data: URI; this server opens no addresses. Send data:{kind}/...;base64,...",
            code="invalid_url",
            param=param,
        )
    media_type, *options = head[5:].lower().split(";")
    if "base64" not in options:
        raise RequestError(f"{param} must be in base64: data:{kind}/...;base64,...", code="invalid_url", param=param)
    if media_type and not media_type.startswith((f"{kind}/", "application/octet-stream")):
        raise RequestError(f"{param} must be of type {kind}/..., nothing else.", code="invalid_url", param=param)
    return Attachment(kind, decode_base64(body, param), param, sound)
