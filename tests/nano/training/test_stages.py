"""One command for all stages: their order, which are skipped, what a failure leaves. The stages are one-liners."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from nano import __main__ as nano_main
from nano.__main__ import Stage, run, stages
from nano.training.record import Record


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano_main, "_POLL_S", 0.01)


def _stage(work: Path, name: str, *after: str, fails_without: Path | None = None) -> Stage:
    """A stage that records its run; it fails if a file is missing."""
    code = f"open({str(work / 'ran')!r}, 'a').write({name + ' '!r})"
    if fails_without is not None:
        code = f"open({str(fails_without)!r}); {code}"
    return Stage(name, ("-c", code), after)


def _ran(work: Path) -> list[str]:
    return (work / "ran").read_text().split()


def test_stages_run_after_what_they_need_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = [
        _stage(tmp_path, "last", "left", "right"),
        _stage(tmp_path, "left", "first"),
        _stage(tmp_path, "right", "first"),
        _stage(tmp_path, "first"),
    ]
    run(plan, tmp_path)
    ran = _ran(tmp_path)
    assert (ran[0], set(ran[1:3]), ran[3:]) == ("first", {"left", "right"}, ["last"])
    run(plan, tmp_path)
    assert _ran(tmp_path) == ran
    output = capsys.readouterr()
    assert output.out == ""
    assert "last is done" in output.err


def test_a_failure_stops_everything_and_the_next_run_goes_on(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    slow = Stage("slow", ("-c", "import time; time.sleep(600)"))
    plan = [_stage(tmp_path, "first"), _stage(tmp_path, "second", "first", fails_without=missing), slow]
    with pytest.raises(RuntimeError, match=r"second failed; its last lines are in .*second\.log"):
        run(plan, tmp_path)
    assert "No such file" in (tmp_path / "logs" / "second.log").read_text()
    record = Record(tmp_path)
    assert [record.done(stage.name) for stage in plan] == [True, False, False]
    missing.touch()
    run(plan[:2], tmp_path)
    assert _ran(tmp_path) == ["first", "second"]
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["stages"]["second"]["command"][:2] == ["python", "-c"]
    assert content["seeds"]["architecture"] == 20_250_326
    assert {"python", "torch", "numpy", "flite"} <= set(content["versions"])
    assert content["machine"]["cores"] >= 1


def test_the_plan_holds_every_stage_in_an_order_that_works(tmp_path: Path) -> None:
    plan = stages(tmp_path, tmp_path / "checkpoint", tmp_path / "bundle", "cuda")
    before: set[str] = set()
    for stage in plan:
        assert set(stage.after) <= before, stage.name
        before.add(stage.name)
    modules = {stage.command[1] for stage in plan if stage.command[0] == "-m"}
    assert len(modules) >= 10
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []
    assert [stage.name for stage in plan if "nano.training.train_thinker" in stage.command] == [
        "thinker-words",
        "thinker",
    ]
    bundle = next(stage for stage in plan if stage.name == "export-bundle")
    assert str(tmp_path / "bundle") in bundle.command
    assert {"thinker=int4", "talker=int4"} <= set(bundle.command)
    without = stages(tmp_path, tmp_path / "checkpoint", None, "cpu")
    assert before - {stage.name for stage in without} == {"export-bundle"}


def test_ctrl_c_ends_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nano_main, "run", interrupted)
    monkeypatch.setattr("sys.argv", ["nano", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        nano_main.main()
    assert end.value.code == 130
    assert "continues" in capsys.readouterr().err
