"""Where this machine's own files are kept, outside of the bundles, and what tells one machine from another."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path


def cache_root() -> Path:
    """The folder: $OMNI_EDGE_CACHE, else one in the user's cache folder."""
    if own := os.environ.get("OMNI_EDGE_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "omni-edge"
    if local := os.environ.get("LOCALAPPDATA"):
        return Path(local) / "omni-edge" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-edge"


def processor() -> str:
    """A name for the kind of processor, with its instruction sets where the system tells."""
    features = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
        features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {features}"


def digest(data: bytes) -> str:
    """A short name for `data`."""
    return hashlib.sha256(data).hexdigest()[:16]
