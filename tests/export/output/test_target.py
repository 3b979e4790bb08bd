"""Which folders an export replaces, what it leaves alone, and what a crash or a second export does to them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from omni_edge.backend.file_lock import locked
from omni_edge.bundle.reader import Bundle
from omni_export.bundle import ExportOptions, export_bundle
from omni_export.graph.builder import GraphBuilder
from omni_quant.precision import Precision
from support.commands import run_export

TEXT = ("--precision", "int8", "--text-only")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def bundle_at(path: Path, mute_bundle: Path) -> Path:
    return Path(shutil.copytree(mute_bundle, path))


def refused(out: Path | str, source: Path, *options: str) -> Result:
    result = run_export(source, "--out", out, *TEXT, *options)
    assert result.exit_code == 2, result.output
    assert "This is a bug" not in result.output
    return result


def somebodys_folder(home: Path, _: Path, __: Path) -> tuple[str, str]:
    (home / "photos").mkdir()
    (home / "photos" / "cat.jpg").write_text("a cat")
    return "photos", "is not a bundle, so it is never replaced"


def the_checkpoint(_: Path, checkpoint: Path, __: Path) -> tuple[str, str]:
    return str(checkpoint), "is not a bundle, so it is never replaced"


def the_checkpoints_parent(_: Path, checkpoint: Path, __: Path) -> tuple[str, str]:
    return str(checkpoint.parent), "is not a bundle, so it is never replaced"


def a_bundle_that_holds_the_checkpoint(home: Path, checkpoint: Path, mute_bundle: Path) -> tuple[str, str]:
    bundle_at(home / "both", mute_bundle)
    checkpoint.rename(home / "both" / "checkpoint")
    checkpoint.symlink_to(home / "both" / "checkpoint")
    return "both", "more than a bundle"


def here(*_: Path) -> tuple[str, str]:
    return ".", "is the folder you are in"


def here_by_a_detour(home: Path, *_: Path) -> tuple[str, str]:
    return f"../{home.name}", "is the folder you are in"


def above(*_: Path) -> tuple[str, str]:
    return "..", "contains the folder you are in"


def the_root(*_: Path) -> tuple[str, str]:
    return "/", "contains the folder you are in"


def a_link_to_somebodys_folder(home: Path, *_: Path) -> tuple[str, str]:
    (home / "photos").mkdir()
    (home / "photos" / "cat.jpg").write_text("a cat")
    (home / "link").symlink_to("photos")
    return "link", "is not a bundle, so it is never replaced"


def a_file(home: Path, *_: Path) -> tuple[str, str]:
    (home / "notes.txt").write_text("mine")
    return "notes.txt", "is a file"


def a_bundle_with_more_in_it(home: Path, _: Path, mute_bundle: Path) -> tuple[str, str]:
    bundle_at(home / "bundle", mute_bundle)
    (home / "bundle" / "diary.txt").write_text("mine")
    return "bundle", r"holds more than a bundle \(diary\.txt\)"


def a_partial_folder_of_somebodys(home: Path, *_: Path) -> tuple[str, str]:
    (home / "new.partial").mkdir()
    (home / "new.partial" / "draft.txt").write_text("mine")
    return "new", "is no unfinished export, so it is left alone"


@pytest.mark.parametrize(
    "prepare",
    [
        somebodys_folder,
        the_checkpoint,
        the_checkpoints_parent,
        a_bundle_that_holds_the_checkpoint,
        here,
        here_by_a_detour,
        above,
        the_root,
        a_link_to_somebodys_folder,
        a_file,
        a_bundle_with_more_in_it,
        a_partial_folder_of_somebodys,
    ],
)
def test_what_is_not_ours_is_never_replaced(
    prepare: Callable[[Path, Path, Path], tuple[str, str]],
    checkpoint: Path,
    mute_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(GraphBuilder, "save")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    source = Path(shutil.copytree(checkpoint, tmp_path / "models" / "checkpoint"))
    out, message = prepare(home, source, mute_bundle)
    before = contents(tmp_path)
    result = refused(out, source, "--force")
    assert re.search(message, result.stderr), result.stderr
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob("*.lock"))


def test_a_folder_below_a_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run_export(checkpoint, "--out", tmp_path / "notes.txt" / "bundle", *TEXT)
    assert result.exit_code in (2, 6), result.output
    assert "notes.txt" in result.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_bundle_inside_of_which_the_checkpoint_lies_is_kept(
    checkpoint: Path, mute_bundle: Path, tmp_path: Path
) -> None:
    out = bundle_at(tmp_path / "bundle", mute_bundle)
    source = Path(shutil.copytree(checkpoint, out / "checkpoint"))
    before = contents(tmp_path)
    refused(out, source, "--force")
    assert contents(tmp_path) == before


def test_an_empty_folder_and_a_link_to_a_bundle_are_written_to(
    checkpoint: Path, mute_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert run_export(checkpoint, "--out", tmp_path / "empty", *TEXT).exit_code == 0
    assert contents(tmp_path / "empty") == contents(mute_bundle)
    bundle_at(tmp_path / "old", mute_bundle)
    (tmp_path / "current").symlink_to("old")
    result = run_export(checkpoint, "--out", tmp_path / "current", "--precision", "fp32", "--text-only", "--force")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "current").is_symlink()
    assert Bundle(tmp_path / "old", verify=True).manifest.graphs["thinker"].precision == "fp32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "empty", "old"]


def text_options(*, force: bool = False) -> ExportOptions:
    return ExportOptions(Precision(), text_only=True, force=force)


def test_the_old_bundle_returns_where_the_new_one_cannot_take_its_place(
    checkpoint: Path, mute_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bundle_at(tmp_path / "bundle", mute_bundle)
    before = contents(out)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "bundle.partial":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(PermissionError):
        export_bundle(str(checkpoint), out, text_options(force=True))
    assert contents(out) == before
    assert not (tmp_path / "bundle.old.partial").exists()


def test_a_crash_while_replacing_leaves_the_old_bundle_for_the_next_export(
    checkpoint: Path, mute_bundle: Path, tmp_path: Path
) -> None:
    """The old bundle had been put aside, and the new one not yet put in its place."""
    out = tmp_path / "bundle"
    bundle_at(tmp_path / "bundle.old.partial", mute_bundle)
    result = refused(out, checkpoint)
    assert "exists already" in result.stderr
    assert contents(out) == contents(mute_bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    export_bundle(str(checkpoint), out, text_options(force=True))
    assert Bundle(out, verify=True).manifest.graphs["thinker"].precision == "fp32"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_two_exports_to_one_folder(checkpoint: Path, tmp_path: Path) -> None:
    """The second one says which process is writing; the lock of a dead process is no lock."""
    out, lock = tmp_path / "bundle", tmp_path / "bundle.partial.lock"
    with locked(lock, lambda _: pytest.fail("nobody holds it")):
        result = refused(out, checkpoint)
    assert f"Another export is writing {out} (process {os.getpid()})" in result.stderr
    assert not out.exists()
    lock.write_text("999999")
    assert run_export(checkpoint, "--out", out, *TEXT).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    lock.write_text("my own notes")
    assert run_export(checkpoint, "--out", out, *TEXT, "--force").exit_code == 6
    assert lock.read_text() == "my own notes"


def test_a_refusal_leaves_no_partial_folder(checkpoint: Path, tmp_path: Path) -> None:
    """One that comes before the first weight, and one that a damaged weight causes amid the first graph."""
    source = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    template = source / "chat_template.json"
    whole = template.read_text()
    template.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert run_export(source, "--out", tmp_path / "bundle", *TEXT).exit_code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    template.write_text(whole)

    def cut(*_: object) -> None:
        for shard in source.glob("*.safetensors"):
            os.truncate(shard, shard.stat().st_size // 2)

    with pytest.MonkeyPatch.context() as patch:
        save = GraphBuilder.save
        patch.setattr(GraphBuilder, "save", lambda *words, **named: (cut(), save(*words, **named))[1])
        result = run_export(source, "--out", tmp_path / "bundle", *TEXT)
    assert result.exit_code == 3, result.output
    assert "is truncated" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
