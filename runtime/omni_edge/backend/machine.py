"""This machine: processor, cores, memory, and the folder of its own files outside of the bundles."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from omni_edge.errors import ResourceError

_KILOBYTE = 1024


def cache_root() -> Path:
    """The folder of this machine's own files: $OMNI_EDGE_CACHE, else one in the user's cache folder.

    Raises:
        ResourceError: the user has no home folder, and no variable names another one.
    """
    if own := os.environ.get("OMNI_EDGE_CACHE"):
        return Path(own)
    if local := os.environ.get("LOCALAPPDATA"):
        return Path(local) / "omni-edge" / "cache"
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "omni-edge"
    try:
        home = Path.home()
    except RuntimeError:
        raise ResourceError(
            "This user has no home folder for cached files. Set OMNI_EDGE_CACHE to a folder that you may write to."
        ) from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "omni-edge"


def processor() -> str:
    """A name for the kind of processor, with its instruction sets where the system lists them."""
    features = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
        features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {features}"


def digest(data: bytes) -> str:
    """A short name for `data`."""
    return hashlib.sha256(data).hexdigest()[:16]


def usable_cores() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Machine:
    """A machine.

    Attributes:
        processor: its name.
        cores: processors that this process may use.
        memory: bytes; 0 where the system has no such number.
        system: name and version of the operating system.
        load_average: over one minute; 0 where the system has no such number.
    """

    processor: str
    cores: int
    memory: int
    system: str
    load_average: float


def machine() -> Machine:
    """This machine."""
    memory = _fields(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        memory=int(memory.split()[0]) * _KILOBYTE,
        system=platform.platform(),
        load_average=round(load, 2),
    )


@dataclass(frozen=True)
class Memory:
    """Memory of this process in bytes; 0 where the system has no such number.

    Attributes:
        resident: in memory now. The part that is not anonymous is mapped files, which processes share and the system
            can take back.
        anonymous: the process's own part of it.
        peak: the largest `resident` so far.
    """

    resident: int
    anonymous: int
    peak: int


def memory() -> Memory:
    """The memory of this process."""
    fields = _fields(Path("/proc/self/status"))
    return Memory(*(int(fields.get(name, "0").split()[0]) * _KILOBYTE for name in ("VmRSS", "RssAnon", "VmHWM")))


def _processor() -> str:
    names = _fields(Path("/proc/cpuinfo"))
    return names.get("model name") or names.get("Model") or platform.processor() or platform.machine()


def _fields(path: Path) -> dict[str, str]:
    """`name: value` lines, the last of each name; empty where there is no such file."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
