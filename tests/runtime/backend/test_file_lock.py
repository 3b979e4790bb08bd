"""The lock between processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omni_edge.backend.file_lock import locked

HOLDER = """
import sys, time
from pathlib import Path
from omni_edge.backend.file_lock import locked

def busy(process):
    raise SystemExit(f"held by {process}")

with locked(Path(sys.argv[1]), busy) as waited:
    print("held", waited, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_another_process_is_kept_out_and_a_dead_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path, 600) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held False\n"
        assert path.read_text() == str(holder.pid)
        with hold(path, 0) as other:
            assert other.communicate()[1].strip() == f"held by {holder.pid}"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.exists()
    with hold(path, 0) as next_one:
        assert next_one.communicate()[0] == "held False\n"
    assert not path.exists()


def test_waiting_ends_when_the_holder_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holders: list[int | None] = []
    with hold(path, 1) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with locked(path, holders.append) as waited:
            assert waited
            assert path.read_text() == str(os.getpid())
        assert holders == [holder.pid]
    assert not path.exists()


def test_many_at_once_exclude_each_other(tmp_path: Path) -> None:
    """Each is the only one inside, whoever removes the file meanwhile."""
    path, inside, seen = tmp_path / "lock", [0], list[int]()

    def work(_: int) -> None:
        with locked(path, lambda _: None):
            inside[0] += 1
            seen.append(inside[0])
            time.sleep(0.001)
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    assert seen == [1] * 24


def test_a_file_that_is_no_lock_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("my notes")
    with pytest.raises(FileExistsError), locked(path, lambda _: None):
        pass
    assert path.read_text() == "my notes"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    (tmp_path / "lock").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock", lambda _: None):
        pass
    assert (tmp_path / "mine").read_text() == ""
