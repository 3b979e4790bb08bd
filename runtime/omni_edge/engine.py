"""The entrance of the library: loads a bundle and starts conversations on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from omni_edge.backend.graph import Trace
from omni_edge.bundle.builtin import shipped_bundle
from omni_edge.bundle.manifest import Manifest
from omni_edge.bundle.reader import Bundle
from omni_edge.conversation.session import Session
from omni_edge.conversation.settings import SessionSettings
from omni_edge.model import Model


class OmniEdge:
    """A loaded bundle. `OmniEdge.load(path)` makes one; `session()` starts a conversation on it.

    Attributes:
        model: the loaded parts, shared by all sessions.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        *,
        threads: int | None = None,
        verify: bool = False,
        low_memory: bool = False,
        trace: Trace | None = None,
        device: str = "cpu",
    ) -> OmniEdge:
        """Loads the bundle in folder `path`.

        Args:
            path: the folder that holds `bundle.json`; None: the built-in demonstration model, see `shipped_bundle`.
            threads: cores to use; None: all that this process may run on.
            verify: hash every file first (seconds for a large bundle); sizes are always checked.
            low_memory: keep one of the encoders and the vocoder in memory at a time. That takes less memory, and a
                pause of about a second whenever the conversation needs another one.
            trace: called after every run of a graph with its role, begin and end (s, `time.perf_counter`).
            device: what runs the Thinker and the Talker: "cpu", "qnn" (Qualcomm's NPU, or its simulator; docs/npu.md),
                or "auto": the NPU where there is one.

        Raises:
            BundleError: the folder is no bundle, or a damaged one; the installation has no built-in one.
            ResourceError: not enough memory, or the device is not there.
            UsageError: the bundle has no graphs for the device.
        """
        bundle = Bundle(shipped_bundle() if path is None else path, verify=verify)
        return cls(Model(bundle, threads=threads, low_memory=low_memory, trace=trace, device=device))

    @property
    def manifest(self) -> Manifest:
        """The description of the bundle: every size, rate and special id."""
        return self.model.manifest

    @property
    def voices(self) -> list[str]:
        """Names of the speakers; empty in a text-only bundle."""
        return list(self.manifest.voices.speakers) if self.manifest.voices else []

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the bundle."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def session(self, settings: SessionSettings | None = None, **fields: Any) -> Session:
        """Starts a conversation.

        Args:
            settings: how it answers; None: the defaults of the bundle.
            fields: single fields of `SessionSettings`, which replace those of `settings`.

        Raises:
            UsageError: the bundle cannot do what is asked: an unknown voice, speech from a text-only bundle, a context
                that the model cannot hold.
            TypeError: `SessionSettings` has no such field.
        """
        return Session(self.model, replace(settings or SessionSettings(), **fields))

    def resume(self, path: Path | str) -> Session:
        """Takes up a conversation that `Session.save` put away.

        It has the settings that it was saved with. On the same machine it continues with exactly the tokens and samples
        of one that was never put away; paced chunks are the exception, because their samples depend on timing.

        Raises:
            ConversationError: the file is missing, damaged, of another format version or of another bundle.
            ResourceError: not enough memory.
        """
        return Session.resume(self.model, path)
