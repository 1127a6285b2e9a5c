"""Mutated command lines: a valid one of every command, with its words changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from tests.torture.mutations.bases import BUILD, MODEL, TASK, Bases, calibrate
from tests.torture.mutations.edits import some
from tests.torture.mutations.forked import Limits
from tests.torture.mutations.judgement import Case
from tests.torture.mutations.places import Place, linked

_SERVES = 6.0  # seconds that a server may go on; loading takes one
_LIMITS = Limits(seconds=240.0, peak_mb=2000.0)
_VALUES = (
    *("", " ", "0", "1", "-1", "2", "3.5", "1e400", "nan", "inf", "-inf", "2147483648", "9" * 400),
    *("0x10", "1_000", "١٢", "²", "9223372036854775808", "-0", "+5", "true", "none", "auto", "all"),
    *("fp16", "int8", "fp8", "int4w", "base", "cpu", "cuda:99", "sm89", "orin-nano", "chunks"),
    *(
        "a" * 100_000,
        "é",
        "💥",
        "\u202e",
        "\x1b[2J",
        "\n",
        "\udcff",
        "\udc80x",
        "%s",
        "{}",
        "$(id)",
    ),
    *("/proc/self", "/dev/null", "/dev/null/x", "/dev/full", "/proc/self/mem", "../out/x", "."),
    *("..", "~", "~nobody/x", "x/y", "http://localhost:1", "grpc://localhost:1", "owner/name"),
    *(
        "de,fr",
        ",",
        ",,",
        "a,,b",
        "short,long",
        "-",
        "--",
        "@texts.txt",
        "--help",
        "x.npy",
        "x.json",
    ),
)


def _engine(place: Place, bases: Bases) -> list[str]:
    model = linked(bases.get("original"), place.input / MODEL)
    return [*BUILD, "--model", str(model), "--out", str(place.out), "--task", TASK]


def _calibrate(place: Place, bases: Bases) -> list[str]:
    model = linked(bases.get("original"), place.input / MODEL)
    return [*calibrate(model, place.out), "--calibration-texts", "16", "--observer", "mse"]


def _refit(place: Place, bases: Bases) -> list[str]:
    bundle = linked(bases.get("engine"), place.input / "bundle")
    return ["refit", "--quiet", "--engine", str(bundle), "--task", TASK, "--out", str(place.out)]


def _adapter(place: Place, bases: Bases) -> list[str]:
    peft = linked(bases.get("native") / "classification", place.input / "peft")
    out = str(place.out / "x.onnx_adapter")
    return ["adapter", "--peft", str(peft), "--bundle", str(bases.get("slot")), "--out", out]


def _verify(place: Place, bases: Bases) -> list[str]:
    return ["verify", "--quiet", "--bundle", _merged(place, bases)]


def _inspect(place: Place, bases: Bases) -> list[str]:
    bundle = linked(bases.get("engine"), place.input / "bundle")
    call = ["--gpu", "sm89", "--batch", "2", "--tokens", "16"]
    return ["inspect", "--bundle", str(bundle), *call, "--html", str(place.out / "page.html")]


def _prove(place: Place, bases: Bases) -> list[str]:
    model = linked(bases.get("original"), place.input / MODEL)
    return [
        *("prove", "--quiet", "--bundle", _merged(place, bases), "--reference", str(model)),
        *("--max-tokens", "8", "--out", str(place.out / "proof")),
    ]


def _drift(place: Place, bases: Bases) -> list[str]:
    model = linked(bases.get("original"), place.input / MODEL)
    return [
        *("drift", "--quiet", "--bundle", _merged(place, bases), "--reference", str(model)),
        *("--lengths", "8", "--text", "a text", "--html", str(place.out / "drift.html")),
    ]


def _triton(place: Place, bases: Bases) -> list[str]:
    return [
        *("triton", "--quiet", "--bundle", _merged(place, bases)),
        *("--out", str(place.out / "repository"), "--triton-version", "24.10"),
    ]


def _serve(place: Place, bases: Bases) -> list[str]:
    return ["serve", "--repository", str(place.out), "--http-port", "18000", "--cache", "1000"]


def _api(place: Place, bases: Bases) -> list[str]:
    return [
        *("api", "--quiet", "--bundle", _merged(place, bases), "--port", "0", "--threads", "1"),
        *("--max-texts", "8", "--deadline", "5", "--default-task", TASK),
    ]


def _encode(place: Place, bases: Bases) -> list[str]:
    return [
        *("encode", "--quiet", "--bundle", _merged(place, bases), "--dimensions", "32"),
        *("--output-type", "int8", "--task", TASK, "--out", str(place.out / "x.npy"), "a text"),
    ]


def _embed(place: Place, bases: Bases) -> list[str]:
    return [
        *("embed", _texts(place), "--quiet", "--bundle", _merged(place, bases)),
        *("--out", str(place.out / "vectors"), "--column", "text", "--task", TASK),
    ]


def _index(place: Place, bases: Bases) -> list[str]:
    canaries = linked(bases.get("canaries"), place.input / "index") / "canaries.json"
    return ["index", "check", "--bundle", _merged(place, bases), "--index", str(canaries), "--json"]


def _tune(place: Place, bases: Bases) -> list[str]:
    few = ["--max-texts", "2", "--rounds", "1", "--minutes", "0.01"]
    return ["tune", "--quiet", "--bundle", _merged(place, bases), "--texts", _texts(place), *few]


def _eval(place: Place, bases: Bases) -> list[str]:
    out = str(place.out / "eval")
    return ["eval", "--bundle", _merged(place, bases), "--preset", "fast", "--out", out, "--json"]


def _merged(place: Place, bases: Bases) -> str:
    return str(linked(bases.get("merged"), place.input / "bundle"))


def _texts(place: Place) -> str:
    path = place.input / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(8)))
    return str(path)


LINES: dict[str, Callable[[Place, Bases], list[str]]] = {
    "engine": _engine,
    "calibrate": _calibrate,
    "refit": _refit,
    "adapter": _adapter,
    "verify": _verify,
    "prove": _prove,
    "drift": _drift,
    "inspect": _inspect,
    "triton": _triton,
    "serve": _serve,
    "api": _api,
    "encode": _encode,
    "embed": _embed,
    "index": _index,
    "tune": _tune,
    "eval": _eval,
}
# Options of all commands: each meets those that have no such.
_OPTIONS = (
    *("--precision", "--target", "--adapter", "--head", "--interface", "--layout", "--rank"),
    *("--embeddings", "--vocabulary", "--unknown", "--block", "--device", "--gpu", "--profiles"),
    *("--name", "--runtime", "--output-type", "--dimensions", "--no-prefix", "--strict", "--json"),
    *("--quiet", "--verbose", "--file", "--fallback", "--workers", "--threads", "--refittable"),
    *("--observer", "--merge", "--compare", "--revision", "--adapter-path", "--version", "--help"),
    *("--allow-plan", "--workspace", "--max-batch", "--max-tokens", "--parity-tokens", "--dry-run"),
    *(
        "--late-chunking",
        "--chunk-tokens",
        "--keep",
        "--engine",
        "--index",
        "--recorded",
        "-h",
        "-x",
    ),
    *("--reference", "--html", "--lengths", "--text", "--fresh"),
)


def command_line(rng: Random, place: Place, bases: Bases) -> Case:
    """A line of a command drawn by the generator."""
    name = rng.choice(sorted(LINES))
    argv = LINES[name](place, bases)
    said = []
    for _ in range(some(rng)):
        edit = rng.choice(sorted(_EDITS))
        _EDITS[edit](rng, argv)
        said.append(edit)
    limits = _LIMITS
    if "api" in argv or name == "api":
        limits = Limits(seconds=60.0, serves=_SERVES)
    return Case(argv=tuple(argv), what=f"{name}: {', '.join(said)}", limits=limits, anywhere=True)


def _at(rng: Random, argv: list[str]) -> int:
    return rng.randrange(len(argv)) if argv else 0


def _drop(rng: Random, argv: list[str]) -> None:
    if argv:
        del argv[_at(rng, argv)]


def _double(rng: Random, argv: list[str]) -> None:
    at = _at(rng, argv)
    argv[at:at] = argv[at : at + rng.choice((1, 2))]


def _swap(rng: Random, argv: list[str]) -> None:
    if argv:
        one, other = _at(rng, argv), _at(rng, argv)
        argv[one], argv[other] = argv[other], argv[one]


def _value(rng: Random, argv: list[str]) -> None:
    """Another value of an option, mostly."""
    if argv:
        places = [i for i, word in enumerate(argv) if not word.startswith("--") and i]
        at = rng.choice(places) if places and rng.random() < 0.9 else _at(rng, argv)
        argv[at] = rng.choice(_VALUES)


def _option(rng: Random, argv: list[str]) -> None:
    at = rng.randrange(len(argv) + 1)
    argv[at:at] = [rng.choice(_OPTIONS), *rng.choice(((), (rng.choice(_VALUES),)))]


def _shorten(rng: Random, argv: list[str]) -> None:
    """A beginning of an option's name, which may be that of several."""
    places = [i for i, word in enumerate(argv) if word.startswith("--")]
    if places:
        at = rng.choice(places)
        argv[at] = argv[at][: rng.randrange(2, len(argv[at]) + 1)]


def _join(rng: Random, argv: list[str]) -> None:
    """``--name=value``."""
    places = [i for i, word in enumerate(argv[:-1]) if word.startswith("--")]
    if places:
        at = rng.choice(places)
        argv[at : at + 2] = [f"{argv[at]}={argv[at + 1]}"]


def _word(rng: Random, argv: list[str]) -> None:
    """Another word where any may be."""
    argv.insert(rng.randrange(len(argv) + 1), rng.choice(_VALUES))


def _letter(rng: Random, argv: list[str]) -> None:
    if argv and (word := argv[(at := _at(rng, argv))]):
        cut = rng.randrange(len(word))
        argv[at] = word[:cut] + rng.choice("xé-=/ \udcfe,.0") + word[cut + 1 :]


def _command(rng: Random, argv: list[str]) -> None:
    """The options of one command, given to another."""
    if argv:
        argv[0] = rng.choice(sorted(LINES))


_EDITS: dict[str, Callable[[Random, list[str]], None]] = {
    "a word less": _drop,
    "a word twice": _double,
    "two words swapped": _swap,
    "another value": _value,
    "one more option": _option,
    "a shorter option": _shorten,
    "an option joined": _join,
    "one more word": _word,
    "another letter": _letter,
    "another command": _command,
}
