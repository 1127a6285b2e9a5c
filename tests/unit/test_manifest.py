"""Reading a manifest: every entry has its type and range, or one line says which has not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.bundle.staging import write_json
from export.checkpoint.encoder_config import EncoderConfig
from export.engines.profiles import engine_profiles
from export.spec import Limits
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import AdapterMode, HeadName, Interface, Precision, Target
from runtimes.errors import InputError
from runtimes.files import sha256
from runtimes.manifest import Manifest, read_manifest
from tests.support import changed, make_manifest

Json = dict[str, Any]
ENGINE = {
    "kind": "tensorrt",
    "precision": "fp16",
    "gpu": "sm89",
    "stripped": True,
    "memory": [5, 6],
}


def whole() -> Json:
    """Every entry that a manifest can have, as JSON; its one file is there."""
    made = make_manifest(
        schema_minor=5,
        model={
            "name": "m",
            "sha256": "0" * 64,
            "format": "native",
            "revision": None,
            "licence": "Apache-2.0",
        },
        target={"name": "tensorrt", "requested": "auto"},
        precision="int8",
        adapter="switchable",
        task="all",
        tasks=("a", "b"),
        prefixes={"a": "", "b": PREFIX, "base": ""},
        prefix="",
        profiles=engine_profiles(("short",), Limits(max_tokens=64, max_batch=4)),
        parity={
            "reference": "r",
            "executed": "e",
            "rows": 2,
            "min_cosine": 0.99,
            "mean_cosine": 1.0,
            "max_abs": 1e-3,
            "threshold": 0.99,
            "passed": True,
            "mean_threshold": 0.99,
            "reference_bf16_min_cosine": 0.99,
            "flushed_weights": {"w": 0.1},
        },
        quantisation={
            "scheme": "int8",
            "share": 1.0,
            "quantised": ["g"],
            "fallback": {"h": "why"},
            "fallback_type": "float16",
            "observer": "min-max",
            "calibration_key": "k",
            "corpus_sha256": "0" * 64,
        },
        predicted={
            "what": "predicted, not measured",
            "source": "fitted to published times",
            "version": "2026-11-28",
            "milliseconds": {"L4": {"1x128": 0.5}},
        },
        output_ranges={task: {"2": 0.9, "4": 0.8, "8": 0.5} for task in ("a", "b", "base")},
    )
    return {**json.loads(json.dumps(made.to_json())), "artifacts": [{"path": "file", **ENGINE}]}


PREFIX = "query: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle")
    (made / "file").write_text("weights")
    return made


def read(folder: Path, raw: Json | str) -> Manifest:
    """``raw`` through the disk."""
    if not isinstance(raw, str):
        for entry in raw["artifacts"] if isinstance(raw.get("artifacts"), list) else ():
            if isinstance(entry, dict) and entry.get("path") == "file":
                entry.setdefault("bytes", 7)
                entry.setdefault("sha256", sha256(folder / "file"))
    text = raw if isinstance(raw, str) else json.dumps(raw)
    (folder / MANIFEST_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_manifest(folder)


def refusal(folder: Path, raw: Json | str) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, raw)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert message.isprintable()
    return message.removeprefix(f"{folder / MANIFEST_FILE}: ")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every entry of a JSON value, inner ones too."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key))


def test_whole_manifest_is_read(folder: Path) -> None:
    manifest = read(folder, whole())
    assert manifest.artifacts[0].memory == (5, 6)
    assert manifest.profiles[0].max == (4, 64)
    assert json.loads(json.dumps(manifest.to_json())) | {"artifacts": []} == {
        **whole(),
        "artifacts": [],
    }


def test_manifest_of_before_is_read(folder: Path) -> None:
    """What later versions added is absent."""
    added = ("schema_minor", "profiles", "head", "quantisation", "output_ranges")
    raw = {k: v for k, v in whole().items() if k not in added} | {"precision": "fp16"}
    raw["artifacts"] = [{"path": "file", "kind": "weights", "precision": None, "gpu": None}]
    del raw["parity"]["mean_threshold"]
    manifest = read(folder, raw)
    assert (manifest.schema_minor, manifest.head, manifest.profiles) == (0, "sentence", ())
    assert (manifest.quantisation, manifest.output_ranges) == (None, {})
    assert (manifest.artifacts[0].stripped, manifest.artifacts[0].memory) == (False, None)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("max_tokens",), "abc", "max_tokens: got 'abc', expected int"),
        (("max_tokens",), 15, "max_tokens: got 15, expected int >= 16"),
        (("max_tokens",), 8193, "max_tokens: got 8193, expected at most 8192"),
        (("max_tokens",), 64.5, "max_tokens: got 64.5, expected int"),
        (("max_tokens",), True, "max_tokens: got True, expected int"),
        (("max_batch",), 0, "max_batch: got 0, expected int >= 1"),
        (("max_batch",), 10**40, "max_batch: got 1000"),
        (("pad_id",), -1, "pad_id: got -1, expected int >= 0"),
        (("pad_id",), 16000, "pad_id: got 16000, expected a number below 16000"),
        (("prefixes",), None, "prefixes: got None, expected object"),
        (("prefixes",), {"a": "", "b": ""}, "prefixes: got {'a': '', 'b': ''}, expected those of"),
        (("prefixes", "a"), 5, "prefixes[...]: got {"),
        (("prefixes", "c"), "", "prefixes: got {"),
        (("dimensions",), [], "dimensions: got [], expected array of length >= 1"),
        (("dimensions",), [4, 2, 8], "dimensions: got (4, 2, 8), expected ascending"),
        (("dimensions",), [0, 8], "dimensions[0]: got 0, expected int >= 1"),
        (("dimensions",), [2, 4], "expected ascending numbers up to 8"),
        (("tasks",), ["a", "a"], "tasks: got ('a', 'a'), expected each name once"),
        (("tasks",), ["a", "../b"], "tasks[1]: got '../b', expected str matching regex"),
        (("tasks",), ["a", "b\n"], r"tasks[1]: got 'b\n'"),
        (("tasks",), "ab", "tasks: got 'ab', expected array"),
        (("task",), "a", "task: got 'a', expected all"),
        (("slot_rank",), 16, "slot_rank: got 16, expected a number where the adapter is a slot"),
        (("adapter",), "slot", "slot_rank: got None"),
        (("adapter",), "merged", "tasks: got ('a', 'b'), expected one task"),
        (("adapter",), "melted", "adapter: got 'melted', expected one of merged, switchable, slot"),
        (("interface",), "x", "interface: got 'x', expected one of sentence, official"),
        (
            ("precision",),
            "fp4",
            "precision: got 'fp4', expected one of fp32, fp16, bf16, int8, fp8, int8w, int4w",
        ),
        (("head",), "\x1b[2J", r"head: got '\x1b[2J', expected one of sentence, chunks"),
        (
            ("target", "name"),
            "cpu",
            "target.name: got 'cpu', expected one of tensorrt_rtx, tensorrt",
        ),
        (("target",), {}, "target.name: missing"),
        (("model", "sha256"), "0" * 63, "model.sha256: got '000"),
        (("model",), [], "model: got [], expected object"),
        (("architecture", "hidden"), 0, "architecture.hidden: got 0, expected int >= 1"),
        (("architecture", "rope_theta"), "x", "architecture.rope_theta: got 'x', expected float"),
        (("versions", "tensorrt"), "1\n2", "versions[...]: got {"),
        (("parity", "min_cosine"), "x", "parity.min_cosine: got 'x', expected float"),
        (("quantisation", "quantised"), {}, "quantisation.quantised: got {}, expected array"),
        (("profiles", 0, "min"), [1], "profiles[0].min: got [1], expected array of length 2"),
        (("profiles", 0, "min"), [0, 1], "profiles[0].min[0]: got 0, expected int >= 1"),
        (("profiles", 0, "opt"), [5, 5], "profiles[0]: got 'short (batch 1–4 × 1–64 tokens)', exp"),
        (("artifacts", 0, "bytes"), -1, "artifacts[0].bytes: got -1, expected int >= 0"),
        (("artifacts", 0, "sha256"), "A" * 64, "artifacts[0].sha256: got 'AAA"),
        (("artifacts", 0, "gpu"), "sm89/..", "artifacts[0].gpu: got 'sm89/..'"),
        (("artifacts", 0, "precision"), "x", "artifacts[0].precision: got 'x', expected one of"),
        (("artifacts", 0, "memory"), [-1], "artifacts[0].memory[0]: got -1, expected int >= 0"),
        (("artifacts", 0, "stripped"), 1, "artifacts[0].stripped: got 1, expected bool"),
        (("schema_minor",), -1, "schema_minor: got -1, expected int >= 0"),
        (("output_ranges", "a", "8"), 0, "output_ranges[...][...]: got {"),
        (("output_ranges", "a", "8"), ..., "output_ranges.a: got {'2': 0.9, '4': 0.8}, expected"),
        (("output_ranges", "a", "16"), 0.4, "expected one for each of [2, 4, 8]"),
        (("output_ranges", "base"), ..., "expected those of ['a', 'b', 'base'], or none"),
    ],
)
def test_wrong_entry_is_named(folder: Path, at: tuple[Any, ...], value: Any, words: str) -> None:
    assert words in refusal(folder, changed(whole(), at, value))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../file",
        "a/../file",
        "./file",
        "a//file",
        "",
        "a\\file",
        "file\n",
        "file\x00",
        ".file",
        "\x1b[2J",
        "manifest.json",
        "file/",
        "ﬁle",
        "f" * 300,
    ],
)
def test_path_that_is_no_plain_name_is_refused(folder: Path, path: str) -> None:
    """Whatever lies there."""
    entry = {"path": path, "kind": "weights", "bytes": 7, "sha256": "0" * 64}
    expected = "artifacts[0].path: got "
    assert refusal(folder, whole() | {"artifacts": [entry]}).startswith(expected)


def test_the_same_path_twice_is_refused(folder: Path) -> None:
    entries = [{"path": "file", **ENGINE}, {"path": "file", **ENGINE}]
    assert "expected each path once" in refusal(folder, whole() | {"artifacts": entries})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_is_no_number_is_refused(folder: Path, number: str) -> None:
    raw = whole()
    raw["artifacts"] = []
    text = json.dumps(raw).replace('"max_abs": 0.001', f'"max_abs": {number}')
    assert number in text
    assert "not valid JSON" in refusal(folder, text)


@pytest.mark.parametrize(
    "at",
    [
        ("colour",),
        ("artifacts", 0, "colour"),
        ("target", "colour"),
        ("profiles", 0, "colour"),
        ("quantisation", "colour"),
    ],
)
def test_unknown_entry_is_for_newer_minor_schemas_alone(folder: Path, at: tuple[Any, ...]) -> None:
    raw = changed(whole(), at, 1)
    dotted = f"{at[0]}[{at[1]}].{at[2]}" if len(at) == 3 else ".".join(at)
    assert f"'{dotted}': no such entry in a manifest" in refusal(folder, raw)
    assert read(folder, raw | {"schema_minor": 8}) == replace(read(folder, whole()), schema_minor=8)


def test_newer_value_of_a_newer_minor_schema_says_who_wrote_it(folder: Path) -> None:
    raw = whole() | {"schema_minor": 9, "precision": "fp4", "versions": {"adaptrt": "0.7.0"}}
    message = refusal(folder, raw)
    assert "precision: got 'fp4'" in message
    assert "written by adaptrt '0.7.0', a newer one" in message


def test_file_of_a_kind_that_is_not_known_here_is_read(folder: Path) -> None:
    """A newer minor schema may have more kinds; no older reader asks for them."""
    raw = changed(whole(), ("artifacts", 0, "kind"), "licence")
    assert read(folder, raw | {"schema_minor": 9}).artifacts[0].kind == "licence"


@pytest.mark.parametrize("versions", [{"adaptrt": "2.0.0"}, {}, None, {"adaptrt": "\x1b[2J"}])
def test_newer_major_schema_says_who_wrote_it(folder: Path, versions: Any) -> None:
    message = refusal(folder, {"schema": 2, "versions": versions, "surprise": 1})
    assert message.startswith("schema 2, expected 1; written by adaptrt ")
    assert ("'2.0.0': install that version" in message) == (versions == {"adaptrt": "2.0.0"})


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "",
        "{",
        "null",
        "\ufeff{}",
        "\ud800",
        '{"schema": "\\ud800"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema": ' + "9" * 5000 + "}",
    ],
)
def test_file_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    refusal(folder, text)


def test_link_is_followed_within_the_bundle_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("weights")
    artifacts = [{"path": "link", "kind": "weights", "bytes": 7, "sha256": sha256(folder / "file")}]
    for target, inside in ((folder / "file", True), (tmp_path / "elsewhere", False)):
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to(target)
        if inside:
            assert read(folder, whole() | {"artifacts": artifacts}).artifacts[0].path == "link"
        else:
            message = refusal(folder, whole() | {"artifacts": artifacts})
            assert "link: a link out of the bundle" in message
    (folder / "link").unlink()


def test_every_entry_takes_nothing_but_what_it_should(folder: Path) -> None:
    """Each in turn is missing, and each value of some hostile ones: refused in a line, or read."""
    raw = whole()
    read(folder, raw)  # completes the artefact
    hostile: list[Any] = [
        None,
        True,
        -1,
        0,
        2**63,
        10**30,
        -0.5,
        1e300,
        "",
        "x",
        "\x00",
        "../..",
        [],
        {},
        [None],
        [[]],
        {"": None},
        {"\x1b": []},
        ["a", "a"],
        "y" * 10_000,
        [0] * 3,
    ]
    refused = 0
    for at in places(raw):
        cases = [changed(raw, at, value) for value in hostile]
        if isinstance(at[-1], str):
            cases.append(changed(raw, at, ...))
        for case in cases:
            refused += not survives(folder, case)
    assert refused > 1000  # most are


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(at=st.sampled_from(sorted(places(whole()), key=repr)), value=JSON)
@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_json_anywhere_is_read_or_refused(
    folder: Path, at: tuple[Any, ...], value: Any
) -> None:
    survives(folder, changed(whole(), at, value))


def survives(folder: Path, raw: Json) -> bool:
    """Whether it is read; what is refused is refused in one printable line."""
    message = None
    try:
        manifest = read(folder, raw)
    except InputError as error:
        message = str(error)
    if message is not None:
        assert message.isprintable()
        assert len(message) < 1000
        return False
    write_json(folder / MANIFEST_FILE, manifest.to_json())
    assert read_manifest(folder) == manifest
    return True


def test_real_manifest_is_whole(small_bundle: Path) -> None:
    """What a build writes has this version's minor schema and every entry typed."""
    raw = json.loads((small_bundle / MANIFEST_FILE).read_text())
    assert (raw["schema"], raw["schema_minor"]) == (1, 7)
    assert raw.keys() == whole().keys()
    for key in ("model", "architecture", "target", "parity"):
        assert raw[key].keys() == whole()[key].keys()
    assert json.loads(json.dumps(read_manifest(small_bundle).to_json())) == raw


def test_choices_are_members_of_their_enums(folder: Path) -> None:
    manifest = read(folder, whole())
    assert manifest.adapter is AdapterMode.SWITCHABLE
    assert manifest.interface is Interface.SENTENCE
    assert manifest.head is HeadName.SENTENCE
    assert manifest.precision is Precision.INT8
    assert manifest.target.name is Target.TENSORRT
    assert manifest.artifacts[0].precision is Precision.FP16


def test_architecture_is_the_encoders(small: Any) -> None:
    assert EncoderConfig.of(small.config.architecture()) == small.config


@pytest.mark.parametrize("minor", [{}, {"schema_minor": 1}])
def test_int8_manifest_of_before_is_read(folder: Path, minor: Json) -> None:
    """Its quantisation was named for INT8, the only scheme there was."""
    raw = {k: v for k, v in whole().items() if k != "schema_minor"} | minor
    old = dict(raw["quantisation"])
    del old["scheme"]
    old = {"int8_share": old.pop("share"), "int8": old.pop("quantised")} | old
    expected = replace(read(folder, whole()), schema_minor=minor.get("schema_minor", 0))
    assert read(folder, raw | {"quantisation": old}) == expected


def test_written_json_is_never_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", {"cosine": float("nan")})
