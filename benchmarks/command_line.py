"""How a command line stands in published results."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def published_command(command: list[str]) -> str:
    """The command line with the last part of every path, apart from the script's."""
    script, *arguments = command
    named = [re.sub(r"(?<![^=:])/[^:]*/", "", argument) for argument in arguments]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *named])
