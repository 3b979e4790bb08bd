"""Generated documentation is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_command_line_page_is_what_the_commands_say() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/make_cli.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_readme_and_the_page_agree_on_exit_codes() -> None:
    codes = [
        [line for line in (ROOT / page).read_text("utf-8").splitlines() if line.startswith("| ") and line[2].isdigit()]
        for page in ("README.md", "docs/cli.md")
    ]
    assert codes[0] == codes[1]
    assert len(codes[0]) == 8
