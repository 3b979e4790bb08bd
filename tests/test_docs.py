"""The pages: what is generated is current, and what they link and name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

from omni_cli import app
from omni_edge.conversation.settings import DEFAULT_CONTEXT
from omni_edge.media.load import LONGEST_SOUND_SECONDS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LISTED = subprocess.run(
    ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
)
FILES = [ROOT / name for name in LISTED.stdout.splitlines()]
PAGES = sorted(path for path in FILES if path.suffix == ".md" and path.exists())


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_the_command_line_page_is_what_the_commands_say() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/make_cli.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_readme_and_the_page_agree_on_exit_codes() -> None:
    codes = [
        [line for line in read(page).splitlines() if line.startswith("| ") and line[2].isdigit()]
        for page in ("README.md", "docs/cli.md")
    ]
    assert codes[0] == codes[1]
    assert len(codes[0]) == 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_links_or_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{folders})/[\w./-]+\.(?:py|md|c|h|svg|json|jsonl|flac|wav))`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = [name.replace(".", "/") for name in re.findall(r"python -m (nano[\w.]*)", text)]
    assert [name for name in modules if not ((ROOT / f"{name}.py").exists() or (ROOT / name).is_dir())] == []


def test_current_results_are_those_that_the_tables_name() -> None:
    pages = ("performance", "experiments", "accuracy", "live", "npu", "raspberry-pi", "serve")
    text = "".join(read(f"docs/{page}.md") for page in pages)
    named = re.findall(r"`(?:(current|history)/)?([\w-]+\.jsonl?)`", text)
    assert {name for folder, name in named if folder != "history"} == {
        path.name for path in (RESULTS / "current").iterdir()
    }
    assert [name for folder, name in named if folder == "history" and not (RESULTS / folder / name).exists()] == []


def test_earlier_results_have_a_line_each_in_their_index() -> None:
    listed = re.findall(r"^\| `([^`]+)` \| .+ \|$", (RESULTS / "history" / "INDEX.md").read_text("utf-8"), re.MULTILINE)
    assert listed == sorted(path.name for path in (RESULTS / "history").iterdir() if path.name != "INDEX.md")


def test_pages_state_the_default_context() -> None:
    text = " ".join(" ".join(page.read_text("utf-8").split()) for page in PAGES)
    stated = re.findall(r"(?:session reserves|default context of) ([\d,]+) positions", text)
    assert len(stated) >= 2
    assert {int(number.replace(",", "")) for number in stated} == {DEFAULT_CONTEXT}


def test_the_readme_states_the_oldest_python() -> None:
    (stated,) = re.findall(r"Python (3\.\d+) or later", read("README.md"))
    assert tomllib.loads(read("pyproject.toml"))["project"]["requires-python"] == f">={stated}"


def test_pages_state_the_longest_file() -> None:
    stated = re.findall(r"[Ff]iles of more than (\d+) minutes", " ".join(read("docs/streaming.md").split()))
    assert [60 * int(minutes) for minutes in stated] == [LONGEST_SOUND_SECONDS]


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    (first, *_) = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert first == version


def test_the_readme_lists_every_command() -> None:
    commands = {f"omni-edge {command.name or command.callback.__name__}" for command in app.app.registered_commands}
    assert len(commands) >= 5
    listed = set(re.findall(r"^\| `(omni-edge [a-z]+)", read("README.md"), re.MULTILINE))
    assert listed == commands


def test_the_names_of_the_architecture_page_exist() -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "runtime" / "omni_edge").rglob("*.py")]
    text = read("docs/architecture.md")
    methods = re.findall(r"`([A-Z]\w+)\.(\w+)`", text)
    assert len(methods) >= 20
    missing = [
        f"{owner}.{method}"
        for owner, method in methods
        if not any(re.search(rf"^class {owner}\b", code, re.M) and f"def {method}(" in code for code in sources)
    ]
    assert missing == []
    types = set(re.findall(r"`((?:[A-Z][a-z]+){2,}|Dit\w+|Utterance)`", text)) - {"OmniEdge"}
    assert len(types) >= 15
    assert [
        name for name in sorted(types) if not any(re.search(rf"^class {name}\b", code, re.M) for code in sources)
    ] == []
