"""Answers a spoken question on ARM64 under emulation, by the wheel that pip installs, and compares it with x86.

    python tests/arm/check.py [--room FOLDER] [--apk FILE]

An ARM64 root without a compiler is made of Debian's packages, the wheel is cross-compiled and installed into it, and
qemu runs the built-in model as a Raspberry Pi 4 (Cortex-A72), a Raspberry Pi 5 (Cortex-A76, dot products) and a
processor with everything (SVE, SME, i8mm). Text tokens and codec tokens must be x86's. `--apk`: the operators of an
Android app (`android_demo/ci/apk.py --out FILE`) take the place of the wheel's. Needs Linux on x86-64, the commands
qemu-aarch64-static, aarch64-linux-gnu-gcc, apt-get and dpkg-deb, and this package in the Python that runs it. Takes
minutes; .ci/run leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BIONIC = REPOSITORY / "android_demo" / "ci"
SOUND = REPOSITORY / "examples" / "turn-on-the-kitchen-light.wav"
PACKAGES = ("python3", "libgomp1", "libstdc++6")
PYTHON = "3.11"  # Debian's
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
REQUIREMENTS = ("numpy", "onnxruntime", "tokenizers", "typer")
# qemu's name to the part number and the features that Linux lists; onnxruntime reads them from /proc.
ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
DOT = f"{ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
PROCESSORS = {
    "cortex-a72": ("0xd08", ARMV8),
    "cortex-a76": ("0xd0b", DOT),
    "max": ("0xd0b", f"{DOT} sve sve2 svei8mm i8mm bf16 sme"),
}
# Samples lie in -1 to 1. Activations are quantized between the operators: what rounds otherwise there is heard of it.
SAMPLES = 0.05


def main() -> int:
    """Checks; the exit code is 0 where all tokens are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--room", type=Path, help="keep downloads and the root there for the next time")
    parser.add_argument("--apk", type=Path, help="an Android app whose operators are used")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        room = (options.room or Path(folder)).resolve()
        room.mkdir(parents=True, exist_ok=True)
        root = make_root(room)
        site = install(room, build_wheel(room))
        if options.apk:
            use_operators(options.apk, site, root)
        return max(compare(cpu, site, root, room) for cpu in PROCESSORS)


def run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command writes to stdout; one that fails ends the check."""
    done = subprocess.run(
        [*map(str, command)], env=os.environ | (environment or {}), cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"arm: {Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def make_root(room: Path) -> Path:
    """An ARM64 root with Python, unpacked from Debian's packages; the package source is this machine's own."""
    root = room / "root"
    if not root.is_dir():
        lists, packages = room / "apt", room / "packages"
        for part in (lists / "lists" / "partial", lists / "cache" / "archives" / "partial", packages):
            part.mkdir(parents=True, exist_ok=True)
        site = run("apt-get", "indextargets", "--format", "$(SITE)").split()[0]
        suite = run("apt-get", "indextargets", "--format", "$(RELEASE)").split()[0]
        (lists / "sources.list").write_text(f"deb [arch=arm64] {site} {suite} main\n")
        (lists / "status").touch()
        entries = {
            "Dir::Etc::sourcelist": lists / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": lists / "lists",
            "Dir::State::status": lists / "status",
            "Dir::Cache": lists / "cache",
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", *(part for key, value in entries.items() for part in ("-o", f"{key}={value}"))]
        run(*apt, "update")
        plan = run(*apt, "--yes", "--no-install-recommends", "--simulate", "install", *PACKAGES)
        names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        run(*apt, "download", *names, cwd=packages)
        for package in packages.glob("*.deb"):
            run("dpkg-deb", "--extract", package, root)
    cores = root / "sys" / "devices" / "system" / "cpu"
    cores.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (cores / name).write_text("0-3\n")
    (root / "proc").mkdir(exist_ok=True)
    return root


def build_wheel(room: Path) -> Path:
    """The folder with this checkout's wheel for ARM64."""
    environment = {"CC": "aarch64-linux-gnu-gcc", "OMNI_EDGE_WHEEL_PLATFORM": PLATFORMS[0]}
    wheels = room / "wheels"
    run(sys.executable, "-m", "pip", "wheel", REPOSITORY, "--no-deps", "--quiet", "-w", wheels, environment=environment)
    return wheels


def install(room: Path, wheels: Path) -> Path:
    """The folder into which pip installs the wheel and what it needs, all from wheels for ARM64."""
    site = room / "site"
    target = ["--target", site, "--upgrade", "--quiet", "--only-binary", ":all:", "--python-version", PYTHON]
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    run(sys.executable, "-m", "pip", "install", *target, *platforms, *REQUIREMENTS)
    wheel = max(wheels.glob("omni_edge-*aarch64.whl"), key=lambda path: path.stat().st_mtime)
    run(sys.executable, "-m", "pip", "install", *target, *platforms, "--no-deps", wheel)
    return site


def use_operators(apk: Path, site: Path, root: Path) -> None:
    """Puts an app's operators in the place of the wheel's, over a libc that has Android's names."""
    prebuilt = site / "omni_edge" / "backend" / "kernels" / "prebuilt"
    with zipfile.ZipFile(apk) as archive:
        for ours, theirs in (("armv8", ""), ("dotprod", "_dotprod"), ("i8mm", "_i8mm")):
            (prebuilt / f"{ours}.so").write_bytes(archive.read(f"lib/arm64-v8a/libomni_edge_kernels{theirs}.so"))
    shared = ["aarch64-linux-gnu-gcc", "-O1", "-fPIC", "-fno-builtin", "-shared"]
    for name in ("libc.so", "libm.so"):
        script = f"-Wl,-soname,{name},--version-script={BIONIC / 'bionic.map'}"
        run(*shared, script, BIONIC / "bionic.c", "-o", root / "lib" / name)


def compare(cpu: str, site: Path, root: Path, room: Path) -> int:
    """Runs the turn on a processor and on this machine; the exit code."""
    part, features = PROCESSORS[cpu]
    core = f"Features\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
    cores = [f"processor\t: {number}\n{core}CPU part\t: {part}\nCPU revision\t: 1\n\n" for number in range(4)]
    (root / "proc" / "cpuinfo").write_text("".join(cores))
    libraries = "/lib:/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu"
    variables = {
        "LD_LIBRARY_PATH": libraries,
        "PYTHONHOME": "/usr",
        "PYTHONPATH": site,
        "OMNI_EDGE_CACHE": room / "none",
    }
    emulator = ["qemu-aarch64-static", "-cpu", cpu, "-L", root]
    emulator += [part for key, value in variables.items() for part in ("-E", f"{key}={value}")]
    began = time.perf_counter()
    arm, spoken = turn(room / "arm.bin", *emulator, root / "usr" / "bin" / f"python{PYTHON}")
    seconds = time.perf_counter() - began
    x86, expected = turn(room / "x86.bin", sys.executable)
    equal = all(arm[key] == x86[key] for key in ("text", "tokens", "codec_tokens"))
    worst = float(np.abs(spoken - expected).max()) if len(spoken) == len(expected) else float("nan")
    tokens = f"{len(arm['tokens'])} + {len(arm['codec_tokens'])} tokens {'equal' if equal else 'DIFFER'}"
    operators = f"operators {arm['operators']} ({x86['operators']} on x86)"
    print(f"arm: {cpu}, {operators}: {tokens}, {len(spoken)} samples within {worst:.2g}, {seconds:.0f} s", flush=True)
    if not equal:
        print(f"arm: {arm}\nx86: {x86}", flush=True)
    return 0 if equal and worst <= SAMPLES else 1


def turn(samples: Path, *python: str | Path) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.float32]]]:
    """The turn's description and its speech."""
    described: dict[str, Any] = json.loads(run(*python, HERE / "turn.py", SOUND, samples).splitlines()[-1])
    return described, np.fromfile(samples, "<f4")


if __name__ == "__main__":
    sys.exit(main())
