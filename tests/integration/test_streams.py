"""Standard input and output, disks and limits as a shell gives them: in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "export.cli"]
# As in a user's shell; unbuffered output would hide what goes wrong when the interpreter ends.
SHELL = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run(*arguments: object, **more: Any) -> subprocess.CompletedProcess[bytes]:
    """``adaptrt`` as a process."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if "input" not in more:
        streams["stdin"] = subprocess.DEVNULL
    settings: dict[str, Any] = {"cwd": ROOT, "env": SHELL, "timeout": 120, "check": False}
    command = [*COMMAND, *map(str, arguments)]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(command, **settings | streams | more)
    return done


def error_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on standard error: no traceback, nothing of the interpreter's at its end."""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More lines than a pipe's buffer takes as vectors."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("".join(f"text {number}\n" for number in range(400)))
    return path


def test_reader_that_goes_away_ends_the_command_quietly(small_bundle: Path, many: Path) -> None:
    """``adaptrt encode … | head -1``; the vectors fill the pipe many times over."""
    process = subprocess.Popen(
        [*COMMAND, "encode", "--bundle", small_bundle, "--file", many],
        cwd=ROOT,
        env=SHELL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["text"] == "text 0"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_reader_that_went_away_before_the_first_word(small_bundle: Path) -> None:
    """What fits the buffer is written when the interpreter ends, if nobody does it before."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run("encode", "--bundle", small_bundle, "text", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["encode", "--bundle", None, "text"], ["--version"]])
def test_full_output_exits_1(small_bundle: Path, arguments: list[str | None]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(*[small_bundle if a is None else a for a in arguments], stdout=full)
    assert done.returncode == 1
    assert "No space left on device" in error_line(done)


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], []])
def test_help_that_nobody_reads_is_quiet(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(*arguments, stdout=writer)
    os.close(writer)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        (0, "standard input is closed; give texts or --file"),
        (1, "standard output is closed; name a file with --out"),
    ],
)
def test_closed_stream_exits_2(small_bundle: Path, closed: int, words: str) -> None:
    """The command's files must not get the stream's number either."""
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'exec "$@" {closed}{"<" if closed == 0 else ">"}&-',
            "bash",
            *COMMAND,
            "encode",
            "--bundle",
            small_bundle,
        ],
        cwd=ROOT,
        env=SHELL,
        input=None if closed == 0 else b"text\n",
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in error_line(done)


def test_closed_standard_error_leaves_the_output_clean(small_bundle: Path) -> None:
    """``print`` to a standard error that is not there goes to standard output."""
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" 2>&-', "bash", *COMMAND, "encode", "--bundle", "/nowhere", "x"],
        cwd=ROOT,
        env=SHELL,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_full_standard_error_keeps_the_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run("verify", "--bundle", "/nowhere", stderr=full).returncode == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"ok\ncaf\xe9\n", "standard input, line 2: not UTF-8 (byte 4 is 0xe9)"),
        (b"ok\n\nlast\n", "standard input, line 2: empty, expected"),
        (b"ok\nb\0d\n", "standard input, line 2: holds a NUL character"),
    ],
)
def test_unusable_standard_input_names_the_line(
    small_bundle: Path, data: bytes, words: str
) -> None:
    done = run("encode", "--bundle", small_bundle, input=data)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in error_line(done)


def test_keyboard_is_told_what_it_is_for(small_bundle: Path) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"text\n\x04")  # Ctrl-D
    done = run("encode", "--bundle", small_bundle, stdin=terminal)
    os.close(terminal)
    os.close(keyboard)
    assert json.loads(done.stdout)["text"] == "text"
    assert done.stderr == b"reading texts from the keyboard, one per line; Ctrl-D ends\n"


def test_json_is_utf_8_whatever_the_locale(small_bundle: Path) -> None:
    """Also where the terminal's encoding could not hold the text."""
    done = run(
        "encode",
        "--bundle",
        small_bundle,
        input="東京 😀\n".encode(),
        env=SHELL | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "東京 😀"


def limited() -> None:
    """No file may grow beyond 40 kB: the kernel refuses as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_full_disk_during_encode_keeps_the_former_file(
    small_bundle: Path, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors.npy"
    out.write_bytes(b"former")
    done = run("encode", "--bundle", small_bundle, "--file", many, "--out", out, preexec_fn=limited)
    assert done.returncode == 1
    assert f"--out: cannot write '{out}' (" in error_line(done)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"former"]


def test_full_disk_during_a_build_is_one_line_and_leaves_nothing(
    small_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "engine",
        "--model",
        small_folder,
        "--target",
        "onnxruntime",
        "--parity-tokens",
        16,
        "--out",
        out,
        preexec_fn=limited,
    )
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "File too large; the file system or a limit (ulimit -f)" in lines[-1]
    assert not out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(small_bundle: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = run("encode", "--bundle", small_bundle, "--out", tmp_path / "v.npy", "x")
    assert done.returncode == 2
    assert "(Permission denied)" in error_line(done)


def test_warnings_made_errors_are_one_line_too(tmp_path: Path) -> None:
    """``python -W error``: the option keeps its meaning, the line its form."""
    code = (
        "import warnings, sys, export.cli as c\n"
        "c._verify = lambda _: warnings.warn('left\\nright')\n"
        "sys.exit(c.main(['verify', '--bundle', 'x']))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert "a warning that Python was told to make an error: left right" in error_line(done)
