"""What shells, pipes and people do to a command line: each case ends well, or with its exit code and a clear line."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from omni_cli.commands.chat_lines import dropped_file, file_argument, split_command
from omni_edge import UsageError, shipped_bundle
from support.commands import GREEDY, run_edge

QUESTION = Path(__file__).parents[2] / "examples" / "turn-on-the-kitchen-light.wav"
PROGRAM = "from omni_cli.app import main; main()"
ANSWER = "I am a small demo model."
SPEAK = ("run", "who are you", "--seed", "1", *GREEDY, "-o")


def run(
    *arguments: str | bytes | Path, before: str = "", shell: str = "", **options: object
) -> subprocess.CompletedProcess[bytes]:
    """`omni-edge` in a process of its own; `shell`: redirections; `before`: Python that runs first."""
    command = [sys.executable, "-c", before + PROGRAM, *map(os.fsencode, arguments)]
    if shell:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, capture_output=True, check=False, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def assert_refused(result: subprocess.CompletedProcess[bytes], code: int, *parts: str) -> None:
    """The exit code, and a last line on stderr that holds `parts`."""
    errors = result.stderr.decode("utf-8", "replace")
    assert result.returncode == code, errors
    assert "Traceback" not in errors
    assert "This is a bug" not in errors
    for part in parts:
        assert part in errors.strip().splitlines()[-1]


# -- text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(b"\xff?",), ("who", "--system", b"caf\xe9"), ("who", "--voice", b"\xff")])
def test_options_that_are_not_utf8_are_usage_errors(arguments: tuple[str | bytes, ...]) -> None:
    assert_refused(run("run", *arguments, "--no-speech"), 2, "not UTF-8")


def test_a_bundle_may_not_lie_where_no_text_names_it(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff"))
    shutil.copytree(shipped_bundle(), folder)
    for command in (("run", "who are you", "--no-speech", "-m"), ("info",)):
        assert_refused(run(*command, folder), 3, "not UTF-8")


def test_lines_may_end_as_on_any_system() -> None:
    lines = "turn on the kitchen light\n/reset\nwho are you\n"
    plain = run("chat", "--no-speech", *GREEDY, stdin=None, input=lines.encode())
    other = run("chat", "--no-speech", *GREEDY, stdin=None, input=lines.replace("\n", "\r\n").encode())
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.decode().splitlines()[-1] == ANSWER
    assert other.stdout == plain.stdout


def test_a_chat_line_that_is_not_utf8_is_a_usage_error() -> None:
    assert_refused(run("chat", "--no-speech", stdin=None, input=b"caf\xe9\n"), 2, "not UTF-8")


# -- streams -------------------------------------------------------------------------------------------------------


def test_a_closed_stdin_is_an_empty_one() -> None:
    assert run("run", "who are you", "--no-speech", *GREEDY, shell="0<&-").stdout.decode().strip() == ANSWER
    assert_refused(run("run", "--no-speech", shell="0<&-"), 2, "no prompt")
    assert run("chat", "--no-speech", shell="0<&-").returncode == 0


def test_closed_streams_do_not_get_into_the_wav_file(tmp_path: Path) -> None:
    path = tmp_path / "reply.wav"
    result = run("run", "who are you", "-o", path, *GREEDY, shell="0<&- 1>&- 2>&-")
    assert result.returncode == 0
    data = path.read_bytes()
    assert struct.unpack("<I", data[40:44])[0] == len(data) - 44 > 10_000
    assert ANSWER.encode() not in data


def test_a_user_without_a_home_folder_is_answered() -> None:
    nobody = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    kept = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "OMNI_EDGE_CACHE")
    }
    result = run("run", "who are you", "--no-speech", *GREEDY, before=nobody, env=kept)
    assert result.stdout.decode().strip() == ANSWER, result.stderr
    assert_refused(run("prepare", before=nobody, env=kept), 6, "OMNI_EDGE_CACHE")


# -- where speech goes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spoken_answer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The WAV file of `SPEAK`."""
    path = tmp_path_factory.mktemp("named") / "named.wav"
    assert run(*SPEAK, path).returncode == 0
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "into"), [("-", "> {}"), ("-", "| cat > {}"), ("/dev/stdout", "> {}"), ("/dev/fd/1", "| cat > {}")]
)
def test_speech_on_stdout_is_a_wav_file_and_the_text_goes_to_stderr(
    tmp_path: Path, spoken_answer: bytes, name: str, into: str
) -> None:
    target = tmp_path / "stdout.wav"
    result = run(*SPEAK, name, shell=into.format(target))
    assert result.returncode == 0, result.stderr
    assert ANSWER in result.stderr.decode()
    data = target.read_bytes()
    assert data[44:] == spoken_answer[44:]
    assert data[:4] == b"RIFF"
    assert data[40:44] == b"\xff" * 4


def test_speech_may_be_dropped_or_piped(tmp_path: Path) -> None:
    assert run("run", "who are you", "-o", "/dev/null", *GREEDY).stdout.decode().strip() == ANSWER
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert run("run", "who are you", "-o", pipe, *GREEDY).stdout.decode().strip() == ANSWER
        data, _ = reader.communicate(timeout=20)
    assert data[:4] == b"RIFF"
    assert len(data) > 10_000


def test_json_and_wav_do_not_share_stdout() -> None:
    result = run("run", "who are you", "-o", "-", "--json")
    assert_refused(result, 2, "--json")
    assert result.stdout == b""


def test_outputs_that_promise_another_format_or_overwrite_an_input_are_refused(tmp_path: Path) -> None:
    assert_refused(run("run", "who are you", "-o", tmp_path / "reply.mp3"), 2, "reply.wav")
    question = Path(shutil.copy(QUESTION, tmp_path / "question.wav"))
    before = question.read_bytes()
    (tmp_path / "link.wav").symlink_to(question)
    for output in (question, tmp_path / "link.wav", tmp_path / ".." / tmp_path.name / "question.wav"):
        assert_refused(run("run", "--audio", question, "-o", output), 2, "overwrite")
    assert question.read_bytes() == before
    bundle = Path(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))
    assert_refused(run("run", "who are you", "-m", bundle, "-o", bundle / "bundle.wav"), 2, "overwrite")
    assert_refused(run("run", "who are you", "-m", bundle, "--plot", bundle / "reply.svg"), 2, "overwrite")


def test_replies_that_are_there_already_are_kept(tmp_path: Path) -> None:
    for count in (1, 2):
        result = run_edge("chat", "-o", tmp_path, *GREEDY, input="who are you\n")
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"reply-{n:03d}.wav" for n in range(1, count + 1)]
    with wave.open(str(tmp_path / "reply-002.wav")) as file:
        assert file.getnframes() > 10_000


# -- chat lines ----------------------------------------------------------------------------------------------------


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    """A file whose name has what shells treat apart."""
    return Path(shutil.copy(QUESTION, tmp_path / "my (second) question's.wav"))


@pytest.mark.parametrize("write", [str, "'{}'".format, '"{}"'.format])
def test_names_are_taken_as_people_write_them(odd_file: Path, write: object) -> None:
    assert callable(write)
    if "'" in odd_file.name and write("x") == "'x'":
        odd_file = odd_file.rename(odd_file.with_name("my question.wav"))
    assert file_argument(write(odd_file)) == odd_file
    assert dropped_file(f" {write(odd_file)} ".lstrip()) == ("audio", odd_file)


def test_escaped_names_addresses_and_the_home_folder(odd_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    escaped = str(odd_file)
    for character in " ()'":
        escaped = escaped.replace(character, "\\" + character)
    assert file_argument(escaped) == odd_file
    assert file_argument(odd_file.as_uri()) == odd_file
    monkeypatch.setenv("HOME", str(odd_file.parent))
    assert file_argument("~/x.wav") == odd_file.parent / "x.wav"
    assert file_argument("two words.wav") == Path("two words.wav")
    with pytest.raises(UsageError, match="null character"):
        file_argument("a\0b")


def test_what_begins_with_a_slash(odd_file: Path) -> None:
    assert split_command("/audio\ta.wav ") == ("/audio", "a.wav")
    assert split_command("/reset") == ("/reset", "")
    assert split_command("/etc/hosts: what is it?") is None
    assert split_command("/ is the root, isn't it?") is None
    assert split_command("/3 of it") is None
    assert split_command(str(odd_file)) is None
    lines = f"{odd_file}\n\n/reset\n/rest\n"
    result = run_edge("chat", "--no-speech", *GREEDY, input=lines)
    assert result.exit_code == 2
    assert result.stdout.strip() == "The kitchen light is on."
    assert "There is no /rest" in result.stderr


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "range_"),
    [
        ("--threads", "4096", "1 to"),
        ("--evaluations", "4000000", "to 1000"),
        ("--guidance", "inf", "to 100"),
        ("--guidance", "nan", "to 100"),
        ("--temp", "1e-310", "0.001 to 1000"),
        ("--temp", "inf", "0.001 to 1000"),
        ("--temp", "nan", "0.001 to 1000"),
        ("--talker-temp", "1e-310", "0.001 to 1000"),
        ("--top-p", "nan", "at most 1"),
        ("--repeat-penalty", "1e-310", "1e-06 to 1e+06"),
        ("--repeat-penalty", "inf", "1e-06 to 1e+06"),
        ("--talker-repeat-penalty", "nan", "1e-06 to 1e+06"),
    ],
)
def test_numbers_out_of_range_name_the_range(option: str, value: str, range_: str) -> None:
    result = run_edge("run", "who are you", f"{option}={value}")
    assert result.exit_code == 2, result.output
    assert range_ in result.stderr.strip().splitlines()[-1]
