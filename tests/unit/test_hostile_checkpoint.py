"""A checkpoint that means harm: refused in one printable line, at once, before anything is made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.numpy import save_file

from export.checkpoint.config import read_config
from export.checkpoint.families import JINA_TASKS
from export.checkpoint.peft_config import read_lora_settings
from export.checkpoint.peft_folder import read_peft_adapter
from export.checkpoint.reader import open_checkpoint
from export.checkpoint.source import SAMPLE, resolve
from export.checkpoint.tensors import SafetensorFiles
from export.gate.reference import reference_model
from export.triton.configs import Release
from export.triton.repository import RepositorySpec, write_repository
from runtimes.errors import InputError
from runtimes.files import check_regular, read_json, sha256
from tests.support import SAMPLE_HF, build, edit_json, edit_tensors, make_manifest

FORGED = "x\nerror: all is well\x1b[2K\u202e"
HUGE = "1" + "0" * 400
TASK = "classification"


@contextmanager
def in_a_second() -> Iterator[None]:
    """Fails instead of waiting where something hangs; Python's re and open() can be interrupted."""

    def stop(*_: object) -> None:
        raise TimeoutError("took longer than a second")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def refusal(call: Callable[[], object]) -> str:
    """The one line in which ``call`` refuses its input, at once."""
    with in_a_second(), pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable(), ascii(line)
    assert len(line) < 1200
    return line


def set_raw(path: Path, key: str, literal: str) -> None:
    """Put JSON text that ``json.dumps`` would not write under ``key``."""
    value = json.loads(path.read_text()) | {key: "PUT HERE"}
    path.write_text(json.dumps(value).replace('"PUT HERE"', literal))


# Names that become paths


@pytest.mark.parametrize(
    "names",
    [
        ["../../pwned", *JINA_TASKS[1:]],
        ["/tmp/pwned", *JINA_TASKS[1:]],
        ["..", *JINA_TASKS[1:]],
        ["", *JINA_TASKS[1:]],
        [".hidden", *JINA_TASKS[1:]],
        ["a/b", *JINA_TASKS[1:]],
        ["a\x00b", *JINA_TASKS[1:]],
        ["\ud800", *JINA_TASKS[1:]],
        [FORGED, *JINA_TASKS[1:]],
        ["a" * 65, *JINA_TASKS[1:]],
        ["base", *JINA_TASKS[1:]],
        ["all", *JINA_TASKS[1:]],
        [JINA_TASKS[1], *JINA_TASKS[1:]],
        [],
        [f"t{i}" for i in range(65)],
        {"a": 1},
        [None, *JINA_TASKS[1:]],
    ],
    ids=lambda names: ascii(names)[:24],
)
def test_adapter_names_are_what_a_task_may_be(damaged: Path, names: Any) -> None:
    edit_json(damaged / "config.json", lora_adaptations=names)
    assert "lora_adaptations" in refusal(lambda: open_checkpoint(damaged))


def test_name_that_leads_out_of_the_output_folder_writes_nothing(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It published a bundle two folders above OUT."""
    edit_json(damaged / "config.json", lora_adaptations=["../../pwned", *JINA_TASKS[1:]])
    out = tmp_path / "a" / "b" / "out"
    assert build(out, "--model", damaged, "--task", "all") == 2
    assert "'../../pwned'" in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {damaged.name}


@pytest.mark.parametrize("name", ["a\nb.safetensors", "a" * 300 + ".safetensors", "\ud800", "/"])
def test_shards_have_plain_names(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    assert "plain name" in refusal(lambda: SafetensorFiles(tmp_path, "model"))


def test_shards_are_counted_before_they_are_opened(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {i: f"{i}.safetensors" for i in range(1000)}}))
    assert "names 1000 files" in refusal(lambda: SafetensorFiles(tmp_path, "model"))


def test_adapter_is_one_safetensors_file(tmp_path: Path) -> None:
    """PEFT falls back to the pickle beside an adapter that it cannot open."""
    folder = Path(shutil.copytree(SAMPLE_HF / TASK, tmp_path / "adapter"))
    (folder / "adapter_model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"w": "part.safetensors"}}
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    line = refusal(lambda: read_peft_adapter(folder, "mine", *read_config(SAMPLE_HF)))
    assert "adapter_model.safetensors: no such file" in line


@pytest.mark.parametrize("change", [{"task": "../../pwned"}, {"precision": "a/../../pwned"}])
def test_manifest_does_not_name_a_folder_of_the_repository(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text(json.dumps(make_manifest().to_json() | change))
    spec = RepositorySpec(
        bundles=(bundle,), out=tmp_path / "repository", release=Release.parse("24.10")
    )
    assert "pwned" in refusal(lambda: write_repository(spec))
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---", "cc-by-nc-4.0"),
        ("license: 'mit' # yes", "mit"),
        ("license: \x1b[2J\nerror: none", None),
        ("license: " + "a" * 65, None),
        ("license: mit\u202e", "mit"),
    ],
)
def test_licence_is_a_short_plain_word(damaged: Path, readme: str, licence: str | None) -> None:
    (damaged / "README.md").write_text(readme)
    assert resolve(str(damaged), None).licence == licence


# Files that are none


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def unix_socket(path: Path) -> None:
    former = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(former)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros": (lambda p: p.symlink_to("/dev/zero"), "is a device"),
    "null": (lambda p: p.symlink_to("/dev/null"), "is a device"),
    "FIFO": (fifo, "is a FIFO"),
    "link to a FIFO": (link_to_fifo, "is a FIFO"),
    "socket": (unix_socket, "is a socket"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "dangling link": (lambda p: p.symlink_to("nowhere"), "no such file"),
    "circle": (lambda p: p.symlink_to(p.name), "cannot be read"),
}
NAMES = ("config.json", "model.safetensors", "tokenizer_config.json", "special_tokens_map.json")


@pytest.mark.parametrize("case", SPECIAL)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_regular_file_is_refused_unopened(damaged: Path, name: str, case: str) -> None:
    make, words = SPECIAL[case]
    (damaged / name).unlink(missing_ok=True)
    make(damaged / name)
    line = refusal(lambda: open_checkpoint(damaged))
    assert f"{damaged / name}: {words}" in line


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters_files_are_regular_too(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(SAMPLE_HF / TASK, tmp_path / "adapter"))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    row = read_config(SAMPLE_HF)
    assert "is a FIFO" in refusal(lambda: read_peft_adapter(folder, "mine", *row))


def test_hash_of_a_fifo_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_model_2.safetensors")
    assert "is a FIFO" in refusal(lambda: sha256(tmp_path / "adapter_model_2.safetensors"))


def test_links_to_regular_files_are_read_as_a_hubs_cache_has_them(
    small_folder: Path, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    for path in small_folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert open_checkpoint(snapshot).tasks == JINA_TASKS


def test_linked_file_that_is_not_the_tokenizers_is_not_copied_into_a_bundle(damaged: Path) -> None:
    (damaged / "secret").write_text("-----BEGIN PRIVATE KEY-----")
    (damaged / "tokenizer_config.json").symlink_to("secret")
    assert "tokenizer_config.json: not valid JSON" in refusal(lambda: open_checkpoint(damaged))


def test_file_that_states_no_size_is_read_to_the_limit(tmp_path: Path) -> None:
    """As those of /proc do."""
    (tmp_path / "config.json").symlink_to("/proc/self/maps")
    assert check_regular(tmp_path / "config.json") == 0
    refusal(lambda: read_json(tmp_path / "config.json", 10))


# Numbers


@pytest.mark.parametrize(
    "key",
    [
        "num_hidden_layers",
        "max_position_embeddings",
        "hidden_size",
        "vocab_size",
        "lora_rank",
        "intermediate_size",
        "type_vocab_size",
        "num_attention_heads",
        "pad_token_id",
        "rotary_emb_base",
        "lora_alpha",
        "layer_norm_eps",
    ],
)
@pytest.mark.parametrize(
    "literal",
    [
        "10000000000000",
        HUGE,
        "1" + "0" * 5000,
        "-1",
        "1e400",
        "NaN",
        "-Infinity",
        "true",
        '"8"',
        "[[8]]",
        '{"a": 8}',
        "[" * 300 + "]" * 300,
        "null",
        '"\\u001b[2J\\n\\ud800"',
    ],
    ids=lambda literal: literal[:16],
)
def test_number_of_no_sense_is_refused_at_once(damaged: Path, key: str, literal: str) -> None:
    set_raw(damaged / "config.json", key, literal)
    line = refusal(lambda: open_checkpoint(damaged))
    assert str(damaged / "config.json") in line


@pytest.mark.parametrize("key", ["num_hidden_layers", "max_position_embeddings"])
def test_ten_million_layers_or_positions_cost_nothing(damaged: Path, key: str) -> None:
    """Names of ten million layers' tensors took minutes and gigabytes."""
    changes: dict[str, Any] = {key: 10_000_000}
    edit_json(damaged / "config.json", **changes)
    tracemalloc.start()
    try:
        line = refusal(lambda: open_checkpoint(damaged))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{key} is 10000000, expected a whole number up to" in line
    assert peak < 16 << 20


def test_layers_within_the_bound_are_compared_with_the_weights(damaged: Path) -> None:
    edit_json(damaged / "config.json", num_hidden_layers=512)
    line = refusal(lambda: open_checkpoint(damaged))
    assert "encoder.layers.10" in line
    assert "is missing" in line


@pytest.mark.parametrize(("value", "expected"), [(256.0, 256), (256, 256)])
def test_whole_numbers_may_be_written_as_floats(
    tmp_path: Path, value: float, expected: int
) -> None:
    raw = json.loads((SAMPLE / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"hidden_size": value}))
    hidden = read_config(tmp_path)[1].hidden
    assert (hidden, type(hidden)) == (expected, int)


@pytest.mark.parametrize("width", [16, "16", 0])
def test_other_head_width_is_refused(damaged: Path, width: Any) -> None:
    """The reference would compute other angles with it: the small model's heads are 16 wide."""
    edit_json(damaged / "config.json", head_dim=width)
    if width == 16:
        assert open_checkpoint(damaged).config.head_dim == 16
    else:
        assert "head_dim" in refusal(lambda: open_checkpoint(damaged))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task_instructions", {"separation": "a" * 10_000_000}),
        ("task_instructions", {"separation": "a" * 2001}),
        ("task_instructions", {"separation": "\x1b[2J"}),
        ("task_instructions", {"separation": "a\x00"}),
        ("task_instructions", {"separation": "\ud800"}),
        ("task_instructions", {"separation": None}),
        ("task_instructions", {FORGED: 7}),
        ("task_instructions", [FORGED]),
        ("matryoshka_dimensions", [32, True]),
        ("matryoshka_dimensions", [32, 64.0]),
        ("matryoshka_dimensions", [[32]]),
        ("matryoshka_dimensions", list(range(1, 100))),
        ("matryoshka_dimensions", {"32": 1}),
    ],
    ids=lambda value: ascii(value)[:32],
)
def test_prefixes_and_dimensions_are_short_and_plain(damaged: Path, key: str, value: Any) -> None:
    edit_json(damaged / "config.json", **{key: value})
    line = refusal(lambda: open_checkpoint(damaged))
    assert key in line or "bytes, expected at most" in line


@pytest.mark.parametrize(
    "prefix", ["Frage: ", "Instruct: search\nQuery: ", "質問：\u3000", "👩‍🔬 "]
)
def test_prefixes_of_any_script_are_kept(damaged: Path, prefix: str) -> None:
    edit_json(damaged / "config.json", task_instructions={"separation": prefix})
    assert open_checkpoint(damaged).config.prefix("separation") == prefix


# Tensors


def test_tensor_cannot_forge_a_line_of_ours(damaged: Path) -> None:
    """A name with a line break and an escape printed a second ``error:`` line."""
    edit_tensors(
        damaged / "model.safetensors", lambda t: t.update({FORGED: np.ones(3, np.float32)})
    )
    line = refusal(lambda: open_checkpoint(damaged))
    assert "unexpected tensor 'x\\nerror" in line


def test_tensors_name_of_a_megabyte_is_shortened(damaged: Path) -> None:
    edit_tensors(
        damaged / "model.safetensors",
        lambda t: t.update({"y" * 1_000_000: np.ones(3, np.float32)}),
    )
    assert "(1000002 characters)" in refusal(lambda: open_checkpoint(damaged))


def test_adapters_tensor_cannot_forge_a_line_either(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLE_HF / TASK, tmp_path / "adapter"))
    path = folder / "adapter_model.safetensors"
    edit_tensors(path, lambda t: t.update({FORGED: np.ones(3, np.float32)}))
    row = read_config(SAMPLE_HF)
    assert "unexpected tensor 'x\\nerror" in refusal(lambda: read_peft_adapter(folder, "m", *row))


def write_header(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 1_000_000,
        b'{"a": {"dtype": "F32", "shape": [1' + b"0" * 400 + b'], "data_offsets": [0, 4]}}',
        b'{"\\u001b\\nerror: x": {"dtype": "\\n", "shape": [], "data_offsets": [0, 0]}}',
        b" " * (9 << 20),
    ],
    ids=["deep object", "deep list", "huge shape", "forged", "giant"],
)
def test_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    write_header(tmp_path / "model.safetensors", header)
    line = refusal(lambda: SafetensorFiles(tmp_path, "model"))
    assert "not a complete safetensors file" in line


def test_header_with_a_million_tensors_is_refused_unread(tmp_path: Path) -> None:
    """The safetensors library reads up to 100 MB of them."""
    entry = b'"t%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % i for i in range(200_000)) + b"}"
    write_header(tmp_path / "model.safetensors", header)
    line = refusal(lambda: SafetensorFiles(tmp_path, "model"))
    assert f"a header of {len(header)} bytes" in line


def test_names_of_files_beside_are_escaped(tmp_path: Path) -> None:
    (tmp_path / f"{FORGED}.bin").write_bytes(b"")
    assert "pickle files are never read" in refusal(lambda: SafetensorFiles(tmp_path, "model"))


def test_huge_tensor_of_an_adapter_is_refused_unread(tmp_path: Path) -> None:
    """A sparse file of 40 GB: its shape is compared before it is read."""
    folder = Path(shutil.copytree(SAMPLE_HF / TASK, tmp_path / "adapter"))
    name = "base_model.model.layers.0.mlp.fc1.lora_"
    size = 40 << 30
    header = {
        f"{name}A.weight": {"dtype": "F32", "shape": [4, size // 16], "data_offsets": [0, size]},
        f"{name}B.weight": {"dtype": "F32", "shape": [0, 4], "data_offsets": [size, size]},
    }
    path = folder / "adapter_model.safetensors"
    write_header(path, json.dumps(header).encode())
    os.truncate(path, path.stat().st_size + size)
    row = read_config(SAMPLE_HF)
    line = refusal(lambda: read_peft_adapter(folder, "mine", *row))
    assert f"has shape [4, {size // 16}]" in line


# What transformers and PEFT would do with keys that are not checked


def test_reference_is_given_nothing_unchecked(tmp_path: Path) -> None:
    """transformers follows these keys to other weights, quantisers and a table of 10⁹ labels."""
    folder = Path(shutil.copytree(SAMPLE_HF, tmp_path / "hf"))
    edit_json(
        folder / "config.json",
        transformers_weights="other.safetensors",
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
        num_labels=10**9,
        hidden_dropout_prob="much",
    )
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1000000000}')
    state = reference_model(open_checkpoint(folder), "base").state_dict()
    plain = reference_model(open_checkpoint(SAMPLE_HF), "base").state_dict()
    assert state.keys() == plain.keys()
    assert all(bool((state[name] == plain[name]).all()) for name in plain)


def test_adapter_that_names_no_module_is_refused_in_one_line(tmp_path: Path) -> None:
    """PEFT's own error was a traceback."""
    folder = Path(shutil.copytree(SAMPLE_HF, tmp_path / "hf"))
    edit_json(folder / TASK / "adapter_config.json", target_modules=["nowhere"])
    with pytest.raises(InputError, match="PEFT refuses the adapter") as caught:
        reference_model(open_checkpoint(folder), TASK)
    assert str(caught.value).isprintable()


# Anything


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    )


JSON_VALUES = nested(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.sampled_from([0, 1, 2, 4, 8, 64, 2**31, 2**63, 10**7])
    | st.floats()
    | st.floats(0, 1000).map(round).map(float)
    | st.text(st.characters())  # lone surrogates too
    | st.sampled_from([".*", "(a+)+$", "q_proj", "../..", "base", FORGED])
)
FUZZ = settings(max_examples=150, deadline=1000, derandomize=True)


def mutated(source: Path, target: Path, changes: dict[str, Any]) -> None:
    raw = json.loads(source.read_text()) | changes
    target.write_text(json.dumps(raw))


def either(call: Callable[[], object]) -> bool:
    """Whether ``call`` succeeds; else it must refuse in one printable line."""
    try:
        call()
    except InputError as error:
        line = str(error)
    else:
        return True
    assert line.isprintable(), ascii(line)
    assert len(line) < 1200
    return False


@pytest.fixture(scope="module")
def mutable(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint with a config.json of its own."""
    folder = tmp_path_factory.mktemp("mutable")
    (folder / "model.safetensors").symlink_to(small_folder / "model.safetensors")
    return folder


CONFIG_KEYS = [*sorted(json.loads((SAMPLE / "config.json").read_text())), "head_dim"]


@FUZZ
@given(st.dictionaries(st.sampled_from(CONFIG_KEYS) | st.text(), JSON_VALUES, max_size=3))
@example({"lora_alpha": 10**400})
@example({"pad_token_id": False})
@example({"task_instructions": {"separation": "\x9b31m"}})
def test_any_config_opens_or_is_refused(
    mutable: Path, small_folder: Path, changes: dict[str, Any]
) -> None:
    mutated(small_folder / "config.json", mutable / "config.json", changes)
    either(lambda: open_checkpoint(mutable))


@pytest.fixture(scope="module")
def mutable_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutable-adapter")
    source = SAMPLE_HF / TASK / "adapter_model.safetensors"
    (folder / "adapter_model.safetensors").symlink_to(source)
    return folder


ADAPTER_KEYS = sorted(json.loads((SAMPLE_HF / TASK / "adapter_config.json").read_text()))


@FUZZ
@given(st.dictionaries(st.sampled_from(ADAPTER_KEYS) | st.text(), JSON_VALUES, max_size=3))
@example({"rank_pattern": {"(a|a)*b": 4}})
@example({"lora_alpha": 10**400})
@example({"r": True})
@example({"layers_to_transform": [10**30]})
def test_any_adapter_config_is_read_or_refused_and_peft_takes_what_is_read(
    mutable_adapter: Path, changes: dict[str, Any]
) -> None:
    folder, row = mutable_adapter, read_config(SAMPLE_HF)
    source = SAMPLE_HF / TASK / "adapter_config.json"
    mutated(source, folder / "adapter_config.json", changes)
    if either(lambda: read_peft_adapter(folder, "mine", *row)):
        LoraConfig(**read_lora_settings(folder).checked)


def test_hypothesis_reaches_both_outcomes(mutable: Path, small_folder: Path) -> None:
    """Guards the two tests above: an unchanged file opens."""
    mutated(small_folder / "config.json", mutable / "config.json", {})
    assert either(lambda: open_checkpoint(mutable))
    mutated(small_folder / "config.json", mutable / "config.json", {"vocab_size": 1})
    assert not either(lambda: open_checkpoint(mutable))


def test_random_bytes_are_no_safetensors(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file({"w": np.ones((2, 2), np.float32)}, good)
    content = good.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        for at in rng.integers(0, len(broken), 3):
            broken[at] = rng.integers(0, 256)
        (tmp_path / "model.safetensors").write_bytes(broken)

        def read() -> None:
            files = SafetensorFiles(tmp_path, "model")
            for name in files.names:
                files.shape(name)
                files.read(name)

        either(read)
