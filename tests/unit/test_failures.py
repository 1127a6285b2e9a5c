"""Every exception is one line and an exit code, whoever raises it."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.numpy
import torch

import export.cli
from export.cli import main
from export.console.failures import (
    CLOSED,
    EXIT_CODES,
    FOREIGN,
    INTERNAL,
    INTERRUPTED,
    TERMINATED,
    explain,
    message_for,
)
from runtimes.errors import AdaptrtError
from runtimes.executors import ort as ours
from runtimes.executors.ort import OrtRuntime

STATE = ort.capi.onnxruntime_pybind11_state
ORT_CLASSES = [v for v in vars(STATE).values() if inspect.isclass(v) and issubclass(v, Exception)]


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> int:
    """The exit code of a command that ends with ``error``."""

    def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(export.cli, "_verify", fail)
    return main(["verify", "--bundle", "x", *options])


def subclasses(cls: type[AdaptrtError]) -> set[type[AdaptrtError]]:
    return {cls}.union(*(subclasses(child) for child in cls.__subclasses__()))


def test_exit_codes_are_those_of_the_error_classes() -> None:
    codes = {cls.exit_code for cls in subclasses(AdaptrtError)}
    assert codes == {1, 2, 3, 4, 6}
    assert codes | {0, INTERNAL, INTERRUPTED, CLOSED, TERMINATED} == set(EXIT_CODES)


def test_the_errors_page_has_the_table_of_exit_codes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    assert "\n".join(rows) in page


def test_onnx_runtime_has_the_classes_that_are_looked_for() -> None:
    """Guards the two tests below."""
    assert len(ORT_CLASSES) >= 15
    assert {"Fail", "EPFail", "NoModel", "InvalidGraph"} <= {c.__name__ for c in ORT_CLASSES}


@pytest.mark.parametrize("cls", ORT_CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_of_onnx_runtime_is_known(cls: type[Exception]) -> None:
    assert issubclass(cls, ours._ORT_ERRORS)
    assert explain(cls("words")) == (
        "ONNX Runtime failed: words; adaptrt verify says whether the bundle is whole",
        1,
    )


@pytest.mark.parametrize("row", FOREIGN)
def test_every_row_names_what_is_there(row: str) -> None:
    """A library that renames a class would drop out of the table in silence."""
    module, _, name = row.rpartition(".")
    if module:
        assert issubclass(getattr(importlib.import_module(module), name), BaseException)
    else:
        importlib.import_module(row)
    assert FOREIGN[row].exit_code in EXIT_CODES


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_number_of_the_operating_system_is_known(number: int) -> None:
    message, code = explain(OSError(number, "?", "some/file"))
    assert code in (1, 2)
    assert "internal" not in message
    if type(OSError(number, "?")) is OSError:
        assert message.startswith(f"'some/file': {os.strerror(number)}; ")


def caused(call: Any, *arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (lambda: Path("/").read_text(), 2, "'/': Is a directory; name a file"),
        (lambda: Path("/etc/passwd/x").read_text(), 2, "Not a directory; check the name"),
        (lambda: Path("a" * 300).read_text(), 2, "File name too long; use a shorter name"),
        (lambda: Path("/nowhere").read_text(), 2, "No such file or directory"),
        (lambda: Path("/nowhere").rename("/else"), 2, "'/nowhere' to '/else': No such"),
        (lambda: b"\xff".decode(), 2, "not UTF-8"),
        (lambda: "\ud800".encode(), 2, "cannot be written as text"),
        (lambda: json.loads("{"), 2, "not valid JSON: Expecting"),
        (lambda: json.loads("[" * 100_000), 2, "nested too deeply"),
        (lambda: np.empty(2**50), 1, "out of memory: Unable to allocate"),
        (lambda: torch.empty(2**50), 1, "out of memory: [enforce fail"),
        (lambda: np.fromfile(b"/nowhere"), 2, "No such file"),
        (lambda: safetensors.numpy.load(b"x"), 2, "not a usable safetensors file"),
        (lambda: onnx.load_from_string(b"\xff"), 2, "not a usable ONNX"),
        (lambda: onnx.checker.check_model(onnx.ModelProto()), 1, "ONNX refuses the graph"),
        (lambda: onnx.parser.parse_model("nonsense"), 1, "ONNX refuses the graph"),
        (lambda: ort.InferenceSession(b""), 1, "ONNX Runtime failed"),
        (lambda: importlib.import_module("no_such_library"), 4, "a library cannot be loaded"),
    ],
)
def test_real_failures_are_told_apart(call: Any, code: int, words: str) -> None:
    message, found = explain(caused(call))
    assert found == code
    assert words in message
    assert len(message.splitlines()) == 1


def test_full_disk_without_a_number_is_no_internal_error() -> None:
    """numpy says how much was written, not why no more."""
    with Path("/dev/full").open("wb", buffering=0) as stream:
        message, code = explain(caused(np.zeros(1 << 20).tofile, stream))
    assert code == 1
    assert message.endswith("is the disk full?")


@pytest.mark.parametrize("module", ["export.gone", "runtimes", "calibration.x"])
def test_own_module_that_is_gone_is_an_internal_error(module: str) -> None:
    assert explain(ModuleNotFoundError("gone", name=module)).exit_code == INTERNAL


def test_the_rest_is_an_internal_error_with_its_traceback_in_a_private_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert raised(monkeypatch, KeyError("left\nerror: forged")) == INTERNAL
    (file,) = tmp_path.iterdir()
    assert capsys.readouterr().err == (
        "error: internal error: KeyError: 'left\\nerror: forged'; "
        f"please report it with the traceback in {file}\n"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "raise error" in file.read_text()


def test_internal_error_without_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert raised(monkeypatch, AssertionError()) == INTERNAL
    assert capsys.readouterr().err == (
        "error: internal error: AssertionError: AssertionError; "
        "please report it with what --debug prints\n"
    )


@pytest.mark.parametrize("error", [AdaptrtError("ours"), KeyError("theirs"), OSError(28, "full")])
@pytest.mark.parametrize("by_variable", [False, True])
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: Exception,
    by_variable: bool,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if by_variable:
        monkeypatch.setenv("ADAPTRT_DEBUG", "1")
    code = raised(monkeypatch, error, *([] if by_variable else ["--debug"]))
    lines = capsys.readouterr().err.splitlines()
    assert code == explain(error).exit_code
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_panic_of_a_library_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What Rust code raises when it breaks off is a BaseException."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    panic = type("PanicException", (BaseException,), {})
    assert raised(monkeypatch, panic("index out of range")) == INTERNAL
    assert capsys.readouterr().err.startswith("error: internal error: PanicException: index out")


def test_debug_may_stand_before_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export.cli, "_verify", lambda arguments: int(arguments.debug))
    assert main(["--debug", "verify", "--bundle", "x"]) == 1
    assert main(["verify", "--bundle", "x"]) == 0


@pytest.mark.parametrize("error", [AdaptrtError, OSError, KeyError, UserWarning])
def test_a_value_with_a_line_break_forges_no_second_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    raised(monkeypatch, error("got a\nerror: forged\r\x1b[2J\u202e\ud800"))
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.removesuffix("\n").isprintable()


def test_a_warning_with_a_line_break_forges_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    from export.console.streams import prepare

    prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        prepare()  # catch_warnings puts the former printer back afterwards
        warnings.warn("text\nerror: forged", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: text\\nerror: forged\n"


def test_long_words_of_a_library_are_shortened() -> None:
    assert len(explain(KeyError("x" * 10**6)).message) < 700


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.zeros((1, 1), np.int64)},
        {"input_ids": np.zeros((1, 1), np.float32)},
        {"input_ids": np.zeros(1, np.int64)},
        {"input_ids": np.zeros((1, 1), "datetime64[s]")},
    ],
)
def test_wrong_inputs_of_a_graph_are_our_error(inputs: Any) -> None:
    """ONNX Runtime raises ValueError, RuntimeError or a class of its own for them."""
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]>'
        "g (int64[N,M] input_ids) => (int64[N,M] y) { y = Neg(input_ids) }"
    )
    with OrtRuntime(graph.SerializeToString()) as runtime:
        assert runtime.run({"input_ids": np.ones((1, 1), np.int64)})["y"] == -1
        with pytest.raises(AdaptrtError, match="ONNX Runtime failed on shapes"):
            runtime.run(inputs)


@pytest.mark.parametrize("words", ["can't allocate memory: you tried", "can't start new thread"])
def test_a_limit_of_memory_is_no_internal_error(words: str) -> None:
    assert message_for(RuntimeError(words), debug=False).exit_code == AdaptrtError.exit_code
