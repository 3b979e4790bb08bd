"""Runs the whole recipe: data, training, checkpoint, bundles, evaluation. Hours on two cores.

    python -m nano --work nano-work --out nano/omni-nano --bundle runtime/omni_edge/bundle/builtin_model

Two stages that do not depend on each other run side by side. Interrupted stages continue, finished ones are skipped.
WORK/logs/STAGE.log has the output of a stage; WORK/record.json has commands, seeds, versions and seconds.
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

# The bundles that are evaluated. The shipped one keeps the encoders in INT8, which pictures and voices need.
_DECODERS = ("--precision-of", "thinker=int4", "--precision-of", "talker=int4")
_PRECISIONS: dict[str, tuple[str, ...]] = {
    "fp32": ("--precision", "fp32"),
    "int8": ("--precision", "int8"),
    "int4": ("--precision", "int4"),
}
_SHIPPED = ("--precision", "int8", *_DECODERS)
# Every width of the model is a multiple of this group size.
_GROUP = 64
_AT_ONCE = 2
# The exit status that shells use for Ctrl-C.
_INTERRUPTED = 130
_POLL_S, _REPORT_S = 1.0, 60.0


@dataclass(frozen=True)
class Stage:
    """One command of the recipe.

    Attributes:
        name: the stage's name in the record and of its log.
        command: arguments of the Python interpreter.
        after: names of the stages that must be done before.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()


def stages(work: Path, checkpoint: Path, bundle: Path | None, device: str) -> list[Stage]:
    """All stages, trained on `device`; of the stages that can run, the earlier one runs first."""
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
    evaluated = [option for out in bundles for option in ("--bundle", str(out))]
    results = ("--out", str(work / "evaluation.json"))
    evaluation = ("-m", "nano.evaluation.evaluate", *shared, *evaluated, *results)
    return [
        Stage("speech-cache", ("-m", "nano.data.speech_cache", *shared)),
        Stage("speech-corpus", ("-m", "nano.data.speech_corpus", *shared), ("speech-cache",)),
        # Thinker and Talker are trained twice; their first runs stop by themselves.
        train("thinker-words", "train_thinker", "speech-cache"),
        train("vision-encoder", "train_vision_encoder", "thinker-words"),
        train("audio-encoder", "train_audio_encoder", "thinker-words"),
        train("codec", "train_codec", "speech-corpus"),
        train("thinker", "train_thinker", "vision-encoder", "audio-encoder"),
        # The DiT's stage also writes the voices' constants.
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
    """Runs the stages that are not done yet.

    Raises:
        RuntimeError: a stage failed; the other running stages are stopped.
    """
    record = Record(work)
    record.begin()
    waiting = [stage for stage in plan if not record.done(stage.name)]
    running: list[_Running] = []
    reported = time.monotonic()
    try:
        while waiting or running:
            ready = [stage for stage in waiting if all(record.done(name) for name in stage.after)]
            for stage in ready[: at_once - len(running)]:
                waiting.remove(stage)
                running.append(_start(stage, work))
            time.sleep(_POLL_S)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                failed = each.process.returncode != 0
                record.note(each.stage.name, each.stage.command, each.seconds, not failed)
                if failed:
                    raise RuntimeError(f"{each.stage.name} failed; its last lines are in {each.log}")
                _report(f"{each.stage.name} is done after {each.seconds:.0f} s")
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                for each in running:
                    _report(f"{each.stage.name}, {each.seconds:.0f} s: {_last_line(each.log)}")
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
            # One core each, since two stages run side by side.
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    _report(f"{stage.name} begins")
    return _Running(stage, process, log, time.monotonic())


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


def _report(text: str) -> None:
    print(f"{datetime.now(timezone.utc):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(
        "python -m nano", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--out", type=Path, help="the checkpoint's folder; default: WORK/omni-nano")
    parser.add_argument("--bundle", type=Path, help="the shipped bundle's folder; default: WORK/bundles/shipped")
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
        _report("stopped; the same command continues from here")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
