"""Everything, in order: data, training, checkpoint, bundles, evaluation. Hours on two cores.

    python -m nano --work nano-work --out nano/omni-nano --bundle runtime/omni_edge/bundle/builtin_model

Two stages run at a time where neither needs the other. What was interrupted goes on; what is done is skipped. Each
stage's output lies in WORK/logs/STAGE.log, and WORK/record.json says what was run, with what, and how long it took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nano.training.loop import add_device
from nano.training.record import Record

# What is judged, by name; what ships keeps the encoders' eight bits, which pictures and voices need.
_VOCODER = ("--precision-of", "bigvgan=int8")
_DECODERS = ("--precision-of", "thinker=int4", "--precision-of", "talker=int4")
_PRECISIONS = {
    "fp32": ("--precision", "fp32"),
    "int8": ("--precision", "int8", *_VOCODER),
    "int4": ("--precision", "int4", *_VOCODER),
}
_SHIPPED = ("--precision", "int8", *_DECODERS, *_VOCODER)
# Every width of the model is a multiple of it.
_GROUP = 64
_AT_ONCE = 2
# As a shell reports Ctrl-C.
_INTERRUPTED = 130
_LOOK_S, _REPORT_S = 1.0, 60.0


@dataclass(frozen=True)
class Stage:
    """A command.

    Attributes:
        name: in the record and of the log.
        command: what follows the Python interpreter.
        after: names of the stages that it needs.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()


def stages(work: Path, checkpoint: Path, bundle: Path | None, device: str) -> list[Stage]:
    """All of them, the training on `device`; of those that can run, the earlier one goes first."""
    shared = ("--work", str(work))

    def train(name: str, module: str, *after: str) -> Stage:
        return Stage(name, ("-m", f"nano.training.{module}", *shared, "--device", device), after)

    def export(name: str, out: Path, precision: tuple[str, ...]) -> Stage:
        options = ("--out", str(out), "--group-size", str(_GROUP), "--force", *precision)
        command = ("-c", "from omni_cli.commands.export import main; main()", str(checkpoint), *options)
        return Stage(name, command, ("checkpoint",))

    bundles = {work / "bundles" / kind: precision for kind, precision in _PRECISIONS.items()}
    bundles[bundle or work / "bundles" / "shipped"] = _SHIPPED
    exports = [export(f"export-{out.name}", out, precision) for out, precision in bundles.items()]
    judged = [option for out in bundles for option in ("--bundle", str(out))]
    results = ("--out", str(work / "evaluation.json"))
    evaluation = ("-m", "nano.evaluation.evaluate", *shared, *judged, *results)
    return [
        Stage("speech-cache", ("-m", "nano.data.speech_cache", *shared)),
        Stage("speech-corpus", ("-m", "nano.data.speech_corpus", *shared), ("speech-cache",)),
        # The Thinker's and the Talker's runs stop by themselves where something else has to be learned first.
        train("thinker-words", "train_thinker", "speech-cache"),
        train("vision-encoder", "train_vision_encoder", "thinker-words"),
        train("audio-encoder", "train_audio_encoder", "thinker-words"),
        train("codec", "train_codec", "speech-corpus"),
        train("thinker", "train_thinker", "vision-encoder", "audio-encoder"),
        # The DiT's first thing to do is to choose the voices' constants.
        train("dit", "train_dit", "codec"),
        train("talker-early", "train_talker", "thinker-words", "codec"),
        train("bigvgan", "train_bigvgan", "speech-corpus"),
        train("talker", "train_talker", "thinker", "talker-early"),
        Stage(
            "checkpoint",
            ("-m", "nano.model.architecture", *shared, "--out", str(checkpoint)),
            ("talker", "dit", "bigvgan"),
        ),
        *exports,
        Stage("evaluation", evaluation, tuple(stage.name for stage in exports)),
    ]


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    log: Path
    began: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def run(plan: Sequence[Stage], work: Path, at_once: int = _AT_ONCE) -> None:
    """Runs what is not done yet.

    Raises:
        RuntimeError: a stage failed; the others that were running are stopped.
    """
    record = Record(work)
    record.begin()
    waiting = [stage for stage in plan if not record.done(stage.name)]
    running: list[_Running] = []
    told = time.monotonic()
    try:
        while waiting or running:
            ready = [stage for stage in waiting if all(record.done(name) for name in stage.after)]
            for stage in ready[: at_once - len(running)]:
                waiting.remove(stage)
                running.append(_start(stage, work))
            time.sleep(_LOOK_S)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                failed = each.process.returncode != 0
                record.note(each.stage.name, each.stage.command, each.seconds, not failed)
                if failed:
                    raise RuntimeError(f"{each.stage.name} failed; its last words are in {each.log}")
                _tell(f"{each.stage.name} is done after {each.seconds:.0f} s")
            if time.monotonic() - told > _REPORT_S:
                told = time.monotonic()
                for each in running:
                    _tell(f"{each.stage.name}, {each.seconds:.0f} s: {_last_line(each.log)}")
    finally:
        for each in running:
            each.process.terminate()
            each.process.wait()
            record.note(each.stage.name, each.stage.command, each.seconds, finished=False)


def _start(stage: Stage, work: Path) -> _Running:
    log = work / "logs" / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *stage.command],
            stdout=out,
            stderr=subprocess.STDOUT,
            # One core each: two stages run side by side.
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    _tell(f"{stage.name} begins")
    return _Running(stage, process, log, time.monotonic())


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


def _tell(text: str) -> None:
    print(f"{datetime.now(timezone.utc):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(
        "python -m nano", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--out", type=Path, help="the checkpoint's folder; without: WORK/omni-nano")
    parser.add_argument("--bundle", type=Path, help="what ships; without: WORK/bundles/shipped")
    parser.add_argument("--at-once", type=int, default=_AT_ONCE, help="stages that run side by side")
    add_device(parser)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    plan = stages(work, arguments.out or work / "omni-nano", arguments.bundle, arguments.device)
    try:
        run(plan, work, arguments.at_once)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        _tell("stopped; the same command goes on from here")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
