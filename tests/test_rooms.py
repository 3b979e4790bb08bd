"""Rules of the house that are no imports: who prints, who reads /proc, and what is imported by name at run time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"runtime": "omni_edge", "export": "omni_export", "quant": "omni_quant", "cli": "omni_cli"}
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder, package in PACKAGES.items()
    for path in (ROOT / folder / package).rglob("*.py")
    if "builtin_model" not in path.parts
)


def attribute(node: ast.AST, module: str) -> str:
    """The name behind `module.`; empty where the node is something else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module:
        return node.attr
    return ""


def printing(tree: ast.AST) -> Iterator[int]:
    """Lines that write to the terminal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}:
            yield node.lineno
        if attribute(node, "sys") in {"stdin", "stdout", "stderr"}:
            yield node.lineno


def reading_proc(tree: ast.AST) -> Iterator[int]:
    """Lines that name a file below /proc."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/proc/"):
            yield node.lineno


def importing_by_name(tree: ast.AST) -> Iterator[int]:
    """Lines that import what import-linter cannot see."""
    for node in ast.walk(tree):
        if attribute(node, "importlib") == "import_module" or getattr(node, "id", "") == "__import__":
            yield node.lineno


def drawing(tree: ast.AST) -> Iterator[int]:
    """Lines that hold the begin of an SVG picture."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "<svg" in node.value:
            yield node.lineno


def starting_processes(tree: ast.AST) -> Iterator[int]:
    """Lines that start a process without `subprocess`."""
    for node in ast.walk(tree):
        if attribute(node, "os").startswith(("exec", "popen", "spawn", "system")):
            yield node.lineno


@pytest.mark.parametrize(
    ("rule", "room"),
    [
        (printing, "cli/omni_cli"),
        (drawing, "cli/omni_cli/plots"),
        (importing_by_name, "cli/omni_cli"),
        (reading_proc, "runtime/omni_edge/backend"),
        (starting_processes, "runtime/omni_edge/backend"),
    ],
    ids=lambda item: item.__name__ if callable(item) else "",
)
def test_only_one_room_does_it(rule: object, room: str) -> None:
    assert callable(rule)
    found = {path: list(rule(ast.parse((ROOT / path).read_text("utf-8")))) for path in SOURCES}
    elsewhere = [f"{path}:{lines[0]}" for path, lines in found.items() if lines and not path.is_relative_to(room)]
    assert elsewhere == []


def test_the_rules_find_what_they_look_for() -> None:
    source = """
import importlib, os, sys
print("x"); sys.stderr.write("y"); open("/proc/meminfo"); importlib.import_module("av"); os.system("ls"); "<svg/>"
"""
    tree = ast.parse(source)
    assert list(printing(tree)) == [3, 3]
    assert all(list(rule(tree)) == [3] for rule in (reading_proc, importing_by_name, starting_processes, drawing))
    assert len(SOURCES) > 100
