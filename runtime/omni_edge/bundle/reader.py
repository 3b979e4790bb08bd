"""A bundle folder: its manifest read, its files present, whole and inside of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from omni_edge.bundle.manifest import FORMAT, FORMAT_VERSION, MANIFEST_NAME, FileEntry, Manifest, parse
from omni_edge.errors import BundleError

# Files up to this size are hashed at every load; larger ones (the weights) when asked, by `omni-edge info`.
_HASH_AT_LOAD_BYTES = 8 << 20
_HASH_CHUNK_BYTES = 4 << 20


class Bundle:
    """A bundle folder whose manifest is read and whose files are present with the right sizes.

    Args:
        path: the folder that holds `bundle.json`.
        verify: hash every file, the weights included, not only the small ones.
        progress: called with the number of bytes just hashed.

    Raises:
        BundleError: see the module's docstring.
    """

    def __init__(
        self, path: Path | str, *, verify: bool = False, progress: Callable[[int], None] | None = None
    ) -> None:
        self.path = Path(path)
        self.manifest = self._read()
        for name, entry in self.manifest.files.items():
            self._check(name, entry, verify or entry.bytes <= _HASH_AT_LOAD_BYTES, progress)

    def _read(self) -> Manifest:
        path = self.path / MANIFEST_NAME
        try:
            raw = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(
                f"{self.path} is not a bundle: it has no {MANIFEST_NAME}. "
                "Make one with 'omni-export CHECKPOINT --out BUNDLE'."
            ) from None
        except (ValueError, OSError) as error:
            raise BundleError(f"{path} cannot be read ({error}). Export the bundle again.") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise BundleError(f"{path} is not the manifest of an omni-edge bundle.")
        if raw.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{path} has format version {raw.get('format_version')}; this version reads {FORMAT_VERSION}. "
                "Export the checkpoint again with this version's omni-export."
            )
        return parse(Manifest, raw, "bundle")

    def manifest_sha256(self) -> str:
        """SHA-256 (hex) of `bundle.json`, which lists that of every other file: it names the whole bundle."""
        return sha256_of(self.path / MANIFEST_NAME)

    def file(self, name: str) -> Path:
        """The path of the bundle's file `name`.

        Raises:
            BundleError: `name` is not listed in the manifest, or leads out of the bundle.
        """
        relative = PurePosixPath(name)
        resolved = (self.path / relative).resolve()
        if relative.is_absolute() or ".." in relative.parts or "\\" in name:
            raise BundleError(f"{MANIFEST_NAME} names {name!r}, a path that leads out of the bundle. Do not trust it.")
        if not resolved.is_relative_to(self.path.resolve()):
            raise BundleError(f"{name} links to {resolved}, outside of the bundle {self.path}. Do not trust it.")
        if name not in self.manifest.files:
            raise BundleError(f"{MANIFEST_NAME} uses {name!r} without listing it under 'files'. Export again.")
        return resolved

    def _check(self, name: str, entry: FileEntry, hashed: bool, progress: Callable[[int], None] | None) -> None:
        path = self.file(name)
        try:
            size = path.stat().st_size
        except OSError:
            raise BundleError(f"The bundle {self.path} lacks {name}. Copy it completely, or export again.") from None
        if size != entry.bytes:
            raise BundleError(
                f"{path} has {size} bytes, the manifest says {entry.bytes}. Copy the bundle again, or export again."
            )
        if hashed and sha256_of(path, progress) != entry.sha256:
            raise BundleError(f"{path} is damaged: its SHA-256 differs from the manifest's. Copy the bundle again.")


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_CHUNK_BYTES):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()
