"""Help texts as a newcomer reads them, and options that no file or number can have."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from enum import StrEnum

import pytest

import export
from export import cli
from export.console.failures import EXIT_CODES
from export.console.parser import COMMANDS
from export.triton.configs import Backend
from runtimes.choices import AdapterMode, HeadName, Interface, Observer, Precision, Target
from runtimes.errors import InputError
from tests.support import run_cli

PARSER = cli._parser()
(SUBPARSERS,) = (a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction))
PARSERS: dict[str, argparse.ArgumentParser] = {"": PARSER, **SUBPARSERS.choices}
OPTIONS = [
    (name, action)
    for name, parser in PARSERS.items()
    for action in parser._actions
    if not isinstance(action, argparse._SubParsersAction)
]
# Modules that run in a server, and those that need mteb.
ELSEWHERE = ("export.triton", "export.evaluation")
PATHS = [
    (name, action.option_strings[0])
    for name, action in OPTIONS
    if action.metavar in ("FILE", "FOLDER") or action.dest in ("model", "revision")
]


def shown_help(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    return PARSERS[name].format_help()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of wrong usage."""
    assert run_cli(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    return line


def test_walk_finds_the_options() -> None:
    """Guards the tests below."""
    assert set(PARSERS) == {"", *COMMANDS}
    assert len(OPTIONS) > 60
    assert ("encode", "--bundle") in PATHS
    assert ("triton", "--settings") in PATHS


OPTION_NAMES = [f"{name} {action.option_strings or action.dest}" for name, action in OPTIONS]


@pytest.mark.parametrize(("name", "action"), OPTIONS, ids=OPTION_NAMES)
def test_every_option_says_what_it_is(name: str, action: argparse.Action) -> None:
    text = action.help or ""
    assert len(text.split()) >= 2
    if action.option_strings and action.nargs != 0:
        assert action.metavar
        assert action.required == text.endswith("(required)")
        if action.default not in (None, ""):
            assert text.endswith("(default: %(default)s)")


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown_help(name, monkeypatch)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(f"usage: adaptrt {name}".rstrip())


@pytest.mark.parametrize("name", PARSERS)
def test_every_command_is_described_for_its_user(name: str) -> None:
    description = PARSERS[name].description or ""
    assert len(description.split()) > 8
    found = pkgutil.walk_packages(export.__path__, "export.")
    modules = [importlib.import_module(n) for _, n, _ in found if not n.startswith(ELSEWHERE)]
    assert not [m for m in modules if m.__doc__ and m.__doc__.strip() in description]
    assert not {"spec", "stage", "resolves", "parses"} & set(description.lower().split())


@pytest.mark.parametrize(
    ("name", "option", "choices"),
    [
        ("engine", "--precision", Precision),
        ("engine", "--target", Target),
        ("engine", "--adapter", AdapterMode),
        ("engine", "--interface", Interface),
        ("engine", "--head", HeadName),
        ("engine", "--observer", Observer),
        ("triton", "--encoder", Backend),
    ],
)
def test_closed_choices_are_listed_in_the_help_and_in_the_error(
    capsys: pytest.CaptureFixture[str], name: str, option: str, choices: type[StrEnum]
) -> None:
    (action,) = (a for n, a in OPTIONS if n == name and option in a.option_strings)
    assert action.help is not None
    assert all(choice in action.help for choice in choices)
    more = ["--bundle", "x"] if name == "triton" else ["--target", "onnxruntime"]
    line = refused_last(capsys, name, *more, option, "mispelt")
    assert all(choice in line for choice in choices)


def refused_last(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error's line; the sample and the target may have been announced before."""
    assert run_cli(*arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_help_shows_the_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_help("", monkeypatch).splitlines()
    listed = {
        int(line.split()[0]): line.split(maxsplit=1)[1]
        for line in lines[lines.index("exit codes:") + 1 :]
    }
    assert listed == EXIT_CODES


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli() == InputError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "  engine      build engine bundles\n" in captured.err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run_cli("--version") == 0
    assert capsys.readouterr().out == f"adaptrt {version('adaptrt')}\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["nonsense"], "COMMAND: invalid choice: 'nonsense' (choose from"),
        (["nonsense\nerror: forged"], "COMMAND: invalid choice"),
        (["verify"], "the following arguments are required: --bundle"),
        (["encode", "text"], "`adaptrt encode --help` says what there is"),
        (["verify", "--bundle", "x", "a\nerror: forged"], "unrecognized arguments"),
        (["engine", "--max-batch", "many"], "--max-batch: got 'many', expected a whole number"),
        (
            ["engine", "--max-batch", str(2**31)],
            "--max-batch: got '2147483648', expected a whole number of at most",
        ),
        (["engine", "--max-batch", "9" * 9999], "--max-batch: "),
        (["engine", "--workspace", "nan"], "--workspace: got 'nan', expected a number of at most"),
        (["engine", "--workspace", "1e300"], "--workspace: got '1e300'"),
        (["serve", "--http-port", "0"], "--http-port: got 0, expected 1 to 65535"),
        (["serve", "--cache", "-1"], "--cache: got -1, expected 0 or more bytes"),
        (["verify", "--bundle", "x", "y" * 100_000], "unrecognized arguments"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    line = refused(capsys, *command)
    assert words in line
    assert len(line) < 600


@pytest.mark.parametrize(("name", "option"), PATHS, ids=str)
@pytest.mark.parametrize("value", ["", "a\0b", "a\nerror: forged\0", "caf\udce9"], ids=repr)
def test_no_option_takes_a_name_that_no_file_can_have(
    capsys: pytest.CaptureFixture[str], name: str, option: str, value: str
) -> None:
    assert f"{option}: got '" in refused(capsys, name, option, value)


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "--bundle", "LONG", "x"],
        ["encode", "--bundle", "x", "--file", "LONG"],
        ["encode", "--bundle", "x", "--out", "LONG.npy", "x"],
        ["verify", "--bundle", "LONG"],
        ["engine", "--model", "LONG"],
        ["engine", "--adapter-path", "LONG", "--task", "mine"],
        ["engine", "--precision", "int8", "--calibration-data", "LONG.txt"],
        ["engine", "--precision", "int8", "--calibration", "LONG"],
        ["refit", "--engine", "LONG", "--task", "x"],
        ["adapter", "--peft", "x", "--bundle", "LONG", "--out", "x.onnx_adapter"],
        ["triton", "--bundle", "LONG"],
        ["triton", "--bundle", "x", "--settings", "LONG"],
        ["serve", "--repository", "LONG"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["n" * 300, "d/" * 3000 + "d"], ids=["name", "path"])
def test_names_that_are_too_long_are_one_line(
    capsys: pytest.CaptureFixture[str], command: list[str], name: str
) -> None:
    target = ["--target", "onnxruntime"] if command[0] == "engine" else []
    assert run_cli(*[part.replace("LONG", name) for part in command], *target) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    expected = (
        "File name too long",
        "CALIBRATION_DATA",
        "neither a folder nor a hub id",
        "is not a folder",
    )
    assert any(words in lines[0] for words in expected)
