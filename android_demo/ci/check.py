"""Checks the Kotlin core on the desktop JVM against the Python runtime of this checkout.

    python android_demo/ci/check.py [--cache FOLDER]

The recordings are made in the same run, by the Python that runs this file, so both sides cannot drift apart. The Kotlin
side runs over ONNX Runtime's Java layer as its archive for Android has it: its JNI library for x86-64, over the desktop
library of the same version, which Python uses here too. The compiled operators and the mapped memory come from
`kernels/CMakeLists.txt`. Needs Linux on x86-64 and the commands java and javac (17 or newer), npm, cc and cmake.
Downloads (0.26 GB) are kept in the cache folder; without them the check is skipped, and says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tools import (
    KOTLIN,
    PYTHON_RUNTIME,
    RUNTIME,
    SECONDS,
    Cache,
    FailedError,
    SkipError,
    class_path,
    compile_kotlin,
    kotlin_libraries,
    require,
    run,
)

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent
# The whole heap is resident from the start, so that what grows is native memory; objects are counted apart.
HEAP = "-XX:+UseSerialGC", "-Xms512m", "-Xmx512m", "-XX:+AlwaysPreTouch"
SOURCES = [DEMO / module / "src" / "main" / "kotlin" for module in ("core", "kernels")]


def main() -> int:
    """Runs the check; the exit code is 0 where everything is equal or the check was skipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for downloads")
    cache = Cache(parser.parse_args().cache)
    try:
        require("java", "javac", "npm", "cc", "cmake")
        kotlin, runtime = cache.npm(*KOTLIN), cache.npm(*RUNTIME)
        python_runtime = pinned_runtime(cache)
        with tempfile.TemporaryDirectory() as folder:
            return check(kotlin, runtime, python_runtime, Path(folder))
    except SkipError as reason:
        print(f"android: skipped: {reason}")
        return 0
    except FailedError as error:
        print(f"android: {error}", file=sys.stderr)
        return 1


def pinned_runtime(cache: Cache) -> Path:
    """ONNX Runtime for this Python, of the version that the Java layer has."""
    if sys.version_info[:2] not in PYTHON_RUNTIME:
        raise SkipError(f"no ONNX Runtime is pinned for Python {sys.version_info[0]}.{sys.version_info[1]}")
    return cache.wheel(*PYTHON_RUNTIME[sys.version_info[:2]])


def default_cache() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "omni-edge-android"


def check(kotlin: Path, runtime: Path, python_runtime: Path, room: Path) -> int:
    """Replays two recordings: of standard operators, and of compiled ones; the worst exit code."""
    java, native = java_runtime(runtime, room / "native")
    jars = [*kotlin_libraries(kotlin), java]
    began = time.perf_counter()
    sources = [path for folder in SOURCES for path in sorted(folder.rglob("*.kt"))]
    compile_kotlin(kotlin, [*sources, HERE / "Replay.kt"], jars, room / "core.jar")
    print(f"android: compiled {len(sources)} Kotlin files in {time.perf_counter() - began:.0f} s", flush=True)
    build_native(room / "build", native)
    jars.append(room / "core.jar")
    return max(replayed(kernels, jars, native, python_runtime, room) for kernels in (False, True))


def java_runtime(package: Path, target: Path) -> tuple[Path, Path]:
    """ONNX Runtime's Java classes, and a folder of native libraries with which they load in a desktop JVM."""
    target.mkdir()
    with zipfile.ZipFile(package / "Plugins" / "Android" / "onnxruntime.aar") as archive:
        for name in ("classes.jar", "jni/x86_64/libonnxruntime4j_jni.so"):
            (target / Path(name).name).write_bytes(archive.read(name))
    shutil.copy(package / "Plugins" / "Linux" / "x64" / "libonnxruntime.so", target / "libonnxruntime.so.1")
    shared = ["cc", "-O1", "-fPIC", "-fno-builtin", "-shared"]
    for name in ("libc.so", "libdl.so", "libm.so"):
        script = f"-Wl,-soname,{name},--version-script={HERE / 'bionic.map'}"
        run([*shared, script, HERE / "bionic.c", "-o", target / name])
    script = f"-Wl,--no-as-needed,-soname,libonnxruntime.so,-rpath,$ORIGIN,--version-script={HERE / 'nnapi.map'}"
    library = [HERE / "nnapi.c", target / "libonnxruntime.so.1", "-o", target / "libonnxruntime.so"]
    run([*shared, "-nostdlib", script, *library])
    return target / "classes.jar", target


def build_native(room: Path, target: Path) -> None:
    """Builds the compiled operators and the mapped memory for this machine, beside the other libraries."""
    include = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    run(["cmake", "-S", DEMO / "kernels", "-B", room, f"-DJNI_INCLUDE={include};{include / 'linux'}"])
    run(["cmake", "--build", room, "--parallel", str(os.cpu_count())])
    for library in room.glob("*.so"):
        shutil.copy(library, target)


def replayed(kernels: bool, jars: list[Path], native: Path, python_runtime: Path, room: Path, *options: str) -> int:
    """Records with Python, replays with Kotlin (`options`: of Java), and resumes with Python what Kotlin saved."""
    trace = room / f"trace-{kernels}"
    environment = {"OMNI_EDGE_CACHE": os.environ.get("OMNI_EDGE_CACHE", str(room / "cache"))}
    environment |= {"OMNI_EDGE_KERNELS": "1" if kernels else "0", "PYTHONPATH": str(python_runtime)}
    if kernels:
        run([sys.executable, "-c", "from omni_edge.backend import kernels; assert kernels.build()"], None, environment)
    run([sys.executable, HERE / "record.py", trace], None, environment)
    bundle = run([sys.executable, "-c", "import omni_edge; print(omni_edge.shipped_bundle())"]).strip()
    print(f"android: {'with' if kernels else 'without'} compiled operators", flush=True)
    folders = [f"-Donnxruntime.native.path={native}", f"-Djava.library.path={native}"]
    arguments = [bundle, str(trace), *([str(native)] if kernels else [])]
    command = ["java", *HEAP, *options, *folders, "-cp", class_path(jars), "dev.omniedge.ReplayKt", *arguments]
    libraries = os.environ | {"LD_LIBRARY_PATH": str(native)}
    code = subprocess.run(command, env=libraries, check=False, timeout=SECONDS).returncode
    if kernels and code == 0:
        print(run([sys.executable, HERE / "record.py", trace, "--resume"], None, environment), end="", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
