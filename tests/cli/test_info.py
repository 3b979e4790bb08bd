"""`omni-edge info`: sizes, memory and hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from omni_edge import OmniEdge
from support.commands import run_edge


def test_what_is_printed_is_what_the_bundle_holds(bundle: Path, engine: OmniEdge) -> None:
    result = run_edge("info", bundle, "--json")
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about["voices"] == ["Chelsie", "Ethan"]
    assert set(about["graphs"]) == set(engine.manifest.graphs)
    files = [path for path in bundle.iterdir() if path.name != "bundle.json"]
    assert about["bytes"] == sum(path.stat().st_size for path in files) == engine.nbytes
    assert about["files"] == len(files)
    for role, graph in about["graphs"].items():
        entry = engine.manifest.graphs[role]
        names = [entry.file, *([entry.data] if entry.data else [])]
        assert graph["bytes"] == sum((bundle / name).stat().st_size for name in names)
        assert graph["nodes"] == entry.nodes
    assert about["memory"]["weights"] == sum(graph["bytes"] for graph in about["graphs"].values())


def test_recipes_are_named_where_the_bundle_has_them(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    recipes = {"/lm_head.weight": "int8 g32, 8.5 bits, rounded"}
    recipes |= {f"/layers.{{layer}}/{name}": "int4 g32, zero points, 4.625 bits, GPTQ" for name in ("qkv", "out")}
    calibration = {"source": "built-in", "tokens": 8192, "sha256": "0" * 64}
    manifest["graphs"]["thinker"] |= {"recipes": recipes, "calibration": calibration}
    manifest["graphs"]["vision_encoder"] |= {"recipes": None, "calibration": None, "precision": "int4 g128"}
    (copy / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    graphs = json.loads(run_edge("info", copy, "--json").stdout)["graphs"]
    assert graphs["thinker"]["recipes"] == recipes
    assert graphs["thinker"]["calibration"] == calibration
    assert graphs["vision_encoder"]["recipes"] == {}
    lines = run_edge("info", copy).stdout.splitlines()
    (thinker,) = [line for line in lines if line.startswith("thinker ")]
    assert thinker.endswith("  int4 g32, zero points, 4.625 bits, GPTQ; int8 g32, 8.5 bits, rounded")
    (vision,) = [line for line in lines if line.startswith("vision_encoder ")]
    assert vision.endswith("  int4 g128")


def test_the_memory_per_position_is_what_sessions_reserve(bundle: Path, engine: OmniEdge) -> None:
    small, large = (engine.session(context=context).nbytes for context in (256, 1256))
    memory = json.loads(run_edge("info", bundle, "--json").stdout)["memory"]
    assert memory["per_1000_positions"] == large - small


@pytest.mark.parametrize("speech", [True, False])
def test_the_page_for_people(bundle: Path, mute_bundle: Path, speech: bool) -> None:
    result = run_edge("info", bundle if speech else mute_bundle)
    assert result.exit_code == 0, result.output
    assert "every SHA-256 matches" in result.stdout
    assert ("Chelsie, Ethan (default Chelsie)" in result.stdout) == speech
    assert ("bigvgan" in result.stdout) == speech
    assert "thinker" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("checking  100 %")
