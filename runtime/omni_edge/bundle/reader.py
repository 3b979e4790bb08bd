"""A bundle folder: reads the manifest and checks that the files are present, whole and inside the folder.

The hub's cache keeps a downloaded bundle as links into one `blobs` folder; such links are followed, no others are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from omni_edge.bundle.checks import check
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
        try:
            str(self.path).encode("utf-8")
        except UnicodeEncodeError:
            raise BundleError(
                f"The path of the bundle, {str(self.path)!a}, is not UTF-8 text, as onnxruntime needs it. Rename it."
            ) from None
        self.manifest = self._read()
        for name in self.manifest.used_files():
            self.file(name)
        for name, entry in self.manifest.files.items():
            self._check(name, entry, verify or entry.bytes <= _HASH_AT_LOAD_BYTES, progress)

    def _read(self) -> Manifest:
        path = self.path / MANIFEST_NAME
        try:
            raw = json.loads(path.read_text("utf-8"))
            # An escaped half of a surrogate pair is valid JSON and no text: nothing could print it.
            json.dumps(raw, ensure_ascii=False).encode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(
                f"{self.path} is not a bundle: it has no {MANIFEST_NAME}. "
                "Make one with 'omni-export CHECKPOINT --out BUNDLE'."
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from None
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path} cannot be read ({error}). Export the bundle again.") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise BundleError(f"{path} is not the manifest of an omni-edge bundle.")
        if raw.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{path} has format version {raw.get('format_version')}; this version reads {FORMAT_VERSION}. "
                "Export the checkpoint again with this version's omni-export."
            )
        manifest = parse(Manifest, raw, "bundle")
        check(manifest)
        return manifest

    def manifest_sha256(self) -> str:
        """SHA-256 (hex) of `bundle.json`, which lists that of every other file: it names the whole bundle."""
        return sha256_of(self.path / MANIFEST_NAME)

    def file(self, name: str) -> Path:
        """The path of the bundle's file `name`, links not followed: a graph names its data file relative to it.

        Raises:
            BundleError: `name` is not listed in the manifest, or leads out of the bundle.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
            raise BundleError(f"{MANIFEST_NAME} names {name!r}, a path that leads out of the bundle. Do not trust it.")
        path = self.path / relative
        try:
            resolved, folder = path.resolve(), self.path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise BundleError(f"{path} cannot be found ({error}). Copy the bundle again.") from None
        if not resolved.is_relative_to(folder) and resolved.parent != _blobs(folder):
            raise BundleError(f"{name} links to {resolved}, outside of the bundle {self.path}. Do not trust it.")
        if name not in self.manifest.files:
            raise BundleError(f"{MANIFEST_NAME} uses {name!r} without listing it under 'files'. Export again.")
        return path

    def _check(self, name: str, entry: FileEntry, hashed: bool, progress: Callable[[int], None] | None) -> None:
        path = self.file(name)
        try:
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                raise BundleError(f"The bundle {self.path} lacks {name}. Copy it completely, or export again.")
            if size != entry.bytes:
                raise BundleError(
                    f"{path} has {size} bytes, the manifest says {entry.bytes}. Copy the bundle again, or export again."
                )
            if hashed and sha256_of(path, progress) != entry.sha256:
                raise BundleError(f"{path} is damaged: its SHA-256 differs from the manifest's. Copy the bundle again.")
        except OSError as error:
            raise _unreadable(path, error) from None


def _blobs(folder: Path) -> Path | None:
    """The folder into which the files of a hub cache's snapshot link; None for any other folder."""
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    return snapshots.parent / "blobs" if snapshots else None


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"{path} cannot be read ({error.strerror}). Check its permissions, or copy the bundle again.")


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_CHUNK_BYTES):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()
