"""Checks the Kotlin core on the desktop JVM against the Python runtime of this checkout.

    python android_demo/ci/check.py [--cache FOLDER]

The recordings are made in the same run, by the Python that runs this file, so both sides cannot drift apart. The Kotlin
side runs over ONNX Runtime's Java layer as its archive for Android has it: its JNI library for x86-64, over the desktop
library of the same version. Needs Linux on x86-64 and the commands java (17 or newer), npm and cc. Downloads (0.24 GB)
are pinned by SHA-256 and kept in the cache folder; without npm or a registry the check is skipped, and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORE = HERE.parent / "core" / "src" / "main"
KOTLIN = ("kotlin-compiler", "2.4.20", "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f")
# A Unity plugin (MIT) that holds the Android archive and the desktop library of one ONNX Runtime version.
RUNTIME = ("com.github.asus4.onnxruntime", "0.4.9", "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d")
JAVA = ["java", "-XX:+UseSerialGC", "-Xmx1500m"]
SECONDS = 600


def main() -> int:
    """Runs the check; the exit code is 0 where everything is equal or the check was skipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "omni-edge-android"
    parser.add_argument("--cache", type=Path, default=default, help="folder for downloads")
    cache = parser.parse_args().cache
    missing = [name for name in ("java", "npm", "cc") if shutil.which(name) is None]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return skip(f"it needs Linux on x86-64, not {platform.system()} on {platform.machine()}")
    if missing:
        return skip(f"this machine has no {', '.join(missing)}")
    try:
        kotlin, runtime = unpacked(cache, *KOTLIN), unpacked(cache, *RUNTIME)
    except subprocess.CalledProcessError as error:
        return skip(f"npm gave no package ({error.stderr.strip().splitlines()[-1][:200]})")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        java, native = java_runtime(runtime, room / "native")
        jars = [*(kotlin / "lib" / f"{name}.jar" for name in ("kotlin-stdlib", "kotlinx-coroutines-core-jvm")), java]
        compiled(kotlin, jars, room / "core.jar")
        return max(replayed(kernels, [*jars, room / "core.jar"], native, room) for kernels in (False, True))


def skip(reason: str) -> int:
    """Says why nothing was checked."""
    print(f"android: skipped: {reason}")
    return 0


def unpacked(cache: Path, name: str, version: str, sha256: str) -> Path:
    """The unpacked npm package, from the cache where it is there.

    Raises:
        CalledProcessError: npm does not get it.
        SystemExit: it is another file than the one that was pinned.
    """
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder / "package"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as partial:
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
        subprocess.run(command, cwd=partial, check=True, capture_output=True, text=True, timeout=SECONDS)
        archive = next(Path(partial).glob("*.tgz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"android: {archive.name} has another SHA-256 than the one pinned in {Path(__file__).name}.")
        with tarfile.open(archive) as tar:
            tar.extractall(Path(partial) / "whole", filter="data")
        (Path(partial) / "whole").rename(folder)
    return folder / "package"


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
        run([*shared, script, str(HERE / "bionic.c"), "-o", str(target / name)])
    script = f"-Wl,--no-as-needed,-soname,libonnxruntime.so,-rpath,$ORIGIN,--version-script={HERE / 'nnapi.map'}"
    library = [str(HERE / "nnapi.c"), str(target / "libonnxruntime.so.1"), "-o", str(target / "libonnxruntime.so")]
    run([*shared, "-nostdlib", script, *library])
    return target / "classes.jar", target


def compiled(kotlin: Path, jars: list[Path], target: Path) -> None:
    """Compiles the core and `Replay.kt` into one jar; a warning is an error."""
    began = time.perf_counter()
    compiler = [*JAVA, "-XX:TieredStopAtLevel=1", "-cp", str(kotlin / "lib" / "*")]
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "11", "-cp", class_path(jars), "-d", str(target)]
    sources = [str(path) for path in (*sorted(CORE.rglob("*.kt")), HERE / "Replay.kt")]
    run([*compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *options, *sources])
    print(f"android: compiled {len(sources)} Kotlin files in {time.perf_counter() - began:.0f} s")


def replayed(kernels: bool, jars: list[Path], native: Path, room: Path) -> int:
    """Records with the Python runtime, replays with Kotlin; the exit code of the latter."""
    trace = room / f"trace-{kernels}"
    cache = room / "cache"
    environment = os.environ | {"OMNI_EDGE_CACHE": str(cache), "OMNI_EDGE_KERNELS": "1" if kernels else "0"}
    library: list[str] = []
    if kernels:
        script = "from omni_edge.backend import kernels; print(kernels.build() or '')"
        library = [run([sys.executable, "-c", script], environment).strip()]
    run([sys.executable, str(HERE / "record.py"), str(trace)], environment)
    bundle = run([sys.executable, "-c", "import omni_edge; print(omni_edge.shipped_bundle())"], environment).strip()
    print(f"android: {'with' if kernels else 'without'} compiled operators")
    options = [f"-Donnxruntime.native.path={native}", "-cp", class_path(jars), "dev.omniedge.ReplayKt"]
    libraries = os.environ | {"LD_LIBRARY_PATH": str(native)}
    command = [*JAVA, *options, bundle, str(trace), *library]
    return subprocess.run(command, env=libraries, check=False, timeout=SECONDS).returncode


def class_path(jars: list[Path]) -> str:
    """The jars as Java takes them."""
    return ":".join(str(jar) for jar in jars)


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Standard output of a command; where it fails, its errors end the check."""
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"android: {command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
