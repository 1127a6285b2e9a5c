"""Generated configurations: Triton's own schema, the release asked for, settings, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.triton.configs import (
    Backend,
    Release,
    encoder_config,
    front_config,
    tokenize_config,
    warmup_files,
)
from export.triton.settings import (
    Allocation,
    Batching,
    EncoderSettings,
    Front,
    Settings,
    read_settings,
)
from runtimes import InputError
from runtimes.choices import FileKind, HeadName, Precision
from runtimes.fingerprint import BundleFingerprints
from runtimes.manifest import Artifact, Manifest
from tests.support import edit_json, listing, make_manifest, run_cli

OLD, NEW = Release.parse("24.10"), Release.parse("25.08")
FOR_OPENVINO = {"target": {"name": "openvino"}, "precision": "bf16"}
STRATEGY = "execution_context_allocation_strategy"


def manifest(**changes: Any) -> Manifest:
    engines = tuple(
        Artifact(path=f"encoder.{gpu}.engine", kind="tensorrt", bytes=1, sha256="0", gpu=gpu)
        for gpu in ("sm89", "sm120")
    )
    return make_manifest(architecture={"hidden": 8}, artifacts=engines, max_tokens=64, **changes)


def config(backend: Backend, release: Release = NEW, **changes: Any) -> pb.ModelConfig:
    settings = Settings(encoder=EncoderSettings(gpus=(0, 1), queue_size=7, warmup_tokens=(16, 65)))
    if backend is Backend.OPENVINO:
        changes = FOR_OPENVINO | changes
    made = encoder_config("e", manifest(**changes), backend, settings, release)
    return text_format.Parse(text_format.MessageToString(made), pb.ModelConfig())


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("changes", [{}, {"adapter": "switchable"}, {"head": "chunks"}])
def test_every_encoder_has_the_same_tensors(backend: Backend, changes: dict[str, Any]) -> None:
    made = config(backend, **changes)
    inputs = {i.name: (pb.DataType.Name(i.data_type), list(i.dims)) for i in made.input}
    batch = [-1] if backend is Backend.OPENVINO else []  # the others' is added by Triton
    names = ("input_ids", "attention_mask")
    expected: dict[str, Any] = {n: ("TYPE_INT64", [*batch, -1]) for n in names}
    if "adapter" in changes:
        expected["task_id"] = ("TYPE_INT64", batch or [1])
        assert made.input[-1].HasField("reshape") == (not batch)
        assert list(made.input[-1].reshape.shape) == []
    if "head" in changes:
        expected["chunk_weights"] = ("TYPE_FP32", [*batch, -1, -1])
    assert inputs == expected
    (output,) = made.output
    chunks = "head" in changes
    assert output.name == ("chunk_embedding" if chunks else "sentence_embedding")
    assert list(output.dims) == [*batch, *([-1, 8] if chunks else [8])]
    rows = 0 if batch else 4
    assert (made.backend, made.max_batch_size, made.platform) == (backend.value, rows, "")


def test_scheduling_is_what_the_settings_say() -> None:
    made = config(Backend.TENSORRT)
    policy = made.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 60_000_000)
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert list(made.dynamic_batching.preferred_batch_size) == []
    assert made.version_policy.latest.num_versions == 1
    assert [w.name for w in made.model_warmup] == ["16 tokens"]  # 65 is more than it takes
    files = warmup_files(made)
    assert {n: v.shape for n, v in files.items()} == {
        "input_ids-16": (16,),
        "attention_mask-16": (16,),
    }
    assert all(v.all() for v in files.values())


@pytest.mark.parametrize(
    ("batching", "backends"),
    [("gpu", {Backend.TENSORRT}), ("always", set(Backend) - {Backend.OPENVINO}), ("never", set())],
)
def test_batching_joins_requests_where_the_settings_say(
    batching: str, backends: set[Backend]
) -> None:
    settings = Settings(encoder=EncoderSettings(batching=Batching(batching)))
    made = {}
    for backend in Backend:
        changes = FOR_OPENVINO if backend is Backend.OPENVINO else {}
        if changes and batching == "always":
            with pytest.raises(InputError, match="joins no requests"):
                encoder_config("e", manifest(**changes), backend, settings, NEW)
        else:
            made[backend] = encoder_config("e", manifest(**changes), backend, settings, NEW)
    assert {b for b, c in made.items() if c.HasField("dynamic_batching")} == backends


@pytest.mark.parametrize(("precision", "rest"), [("bf16", None), ("int8", "bf16")])
def test_openvino_is_told_the_type_of_products(precision: str, rest: str | None) -> None:
    """All that Triton's backend can be told; it makes a positive max_batch_size the batch axis."""
    changes = FOR_OPENVINO | {"precision": precision, "rest": rest, "adapter": "switchable"}
    settings = Settings(encoder=EncoderSettings(threads=3, warmup_tokens=(16,)))
    made = encoder_config("e", manifest(**changes), Backend.OPENVINO, settings, NEW)
    assert {name: p.string_value for name, p in made.parameters.items()} == {
        "HINT_BF16": "YES",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "3",
    }
    assert (made.max_batch_size, made.default_model_filename) == (0, "model.xml")
    files = {name: values.shape for name, values in warmup_files(made).items()}
    assert files == {"input_ids-16": (1, 16), "attention_mask-16": (1, 16), "task_id-16": (1,)}
    assert "INFERENCE_NUM_THREADS" not in config(Backend.OPENVINO).parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp32"}, "cannot be told to multiply in FP32.*ENCODER=python"),
        ({"precision": "fp16"}, "cannot be told to multiply in FP32.*ENCODER=python"),
        ({"precision": "int8", "rest": "fp32"}, "cannot be told to multiply in FP32.*REST=bf16"),
        ({"target": {"name": "onnxruntime"}}, "build it with TARGET=openvino"),
        ({"interface": "official"}, "INTERFACE=sentence"),
    ],
    ids=["fp32", "fp16", "int8-rest-fp32", "target", "interface"],
)
def test_openvino_does_not_become_bf16_unasked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(Backend.OPENVINO, **changes)


def test_a_python_encoder_runs_what_speaks_for_the_bundles_target() -> None:
    executors = {
        target: config(Backend.PYTHON, target={"name": target}).parameters["executor"].string_value
        for target in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
    }
    expected = dict.fromkeys(executors, "onnxruntime") | {"openvino": "openvino"}
    assert executors == expected


def test_tensorrt_picks_the_engine_of_the_gpu() -> None:
    made = config(Backend.TENSORRT)
    assert dict(made.cc_model_filenames) == {
        "8.9": "encoder.sm89.engine",
        "12.0": "encoder.sm120.engine",
    }
    (group,) = made.instance_group
    assert (group.kind, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_GPU, [0, 1])
    for backend in (Backend.PYTHON, Backend.ONNXRUNTIME):
        (group,) = config(backend).instance_group
        assert (group.kind, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_CPU, [])


def test_what_is_newer_than_the_release_is_left_out() -> None:
    new, old = config(Backend.TENSORRT, NEW), config(Backend.TENSORRT, OLD)
    assert new.parameters[STRATEGY].string_value == "ON_PROFILE_CHANGE"
    assert STRATEGY not in old.parameters
    with pytest.raises(InputError, match=r"Triton 24\.10.*opset 23.*ENCODER=python"):
        config(Backend.ONNXRUNTIME, OLD, schema_minor=3)
    graphs = (config(Backend.ONNXRUNTIME, NEW, schema_minor=3), config(Backend.ONNXRUNTIME, OLD))
    assert graphs[0] == graphs[1]


EASED = {
    "scheme": "int4w",
    "share": 0.9,
    "quantised": (),
    "fallback": {},
    "fallback_type": "float16",
    "observer": "none",
    "calibration_key": "k",
    "corpus_sha256": "c",
    "eased_to": Precision.INT8W,
}


@pytest.mark.parametrize(
    "changes", [{"precision": "int8w"}, {"precision": "int4w", "quantisation": EASED}]
)
def test_weights_in_8_bits_need_the_newer_onnxruntime(changes: dict[str, Any]) -> None:
    """ONNX Runtime 1.20 and 1.22 were seen to refuse them, and to run those in 4 bits."""
    with pytest.raises(InputError, match=r"Triton 24\.10 multiplies no weights in 8 bits"):
        config(Backend.ONNXRUNTIME, OLD, **changes)
    assert config(Backend.ONNXRUNTIME, NEW, **changes).backend == "onnxruntime"
    assert config(Backend.ONNXRUNTIME, OLD, precision="int4w").backend == "onnxruntime"
    assert config(Backend.PYTHON, OLD, **changes).backend == "python"


@pytest.mark.parametrize("name", ["24.09", "24.13", "25", "2.51", "latest", "25.1", ""])
def test_unknown_release_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="TRITON_VERSION: got"):
        Release.parse(name)


def test_bundle_without_tensorrt_engines_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"ENCODER=tensorrt.*TARGET=tensorrt"):
        encoder_config("e", replace(manifest(), artifacts=()), Backend.TENSORRT, Settings(), NEW)
    with pytest.raises(InputError, match=r"INTERFACE=sentence"):
        config(Backend.ONNXRUNTIME, interface="official")


def test_front_takes_whole_requests_and_tells_clients_what_is_served() -> None:
    settings = Settings(embed=Front(instances=3, cache=True), versions=2)
    tokenizer = Artifact(path="tokenizer.json", kind=FileKind.TOKENIZER, bytes=1, sha256="7" * 64)
    one = make_manifest(artifacts=(tokenizer,))
    made = front_config(settings, [one, replace(one, prefixes={"a": ""})])
    assert made.max_batch_size == 0
    assert made.response_cache.enable
    assert made.version_policy.latest.num_versions == 2
    assert made.instance_group[0].count == 3
    assert [i.name for i in made.input if not i.optional] == ["TEXT"]
    values = {name: p.string_value for name, p in made.parameters.items()}
    served = BundleFingerprints.served(values.pop("fingerprints"), "http://there")
    assert {(f.task, f.prefix, f.canaries) for f in served} == {
        ("retrieval.query", "query: ", ()),
        ("a", "", ()),
    }
    assert values == {
        "tasks": "a,retrieval.query",
        "dimensions": "2,4,8",
        "max_tokens": "64",
        "max_bytes": "1048576",
    }
    assert front_config(settings, [one], ["a", "b"]).parameters["on_gpu"].string_value == "a,b"
    tokenize = tokenize_config(settings, [make_manifest(prefixes={"a": "é: ", "b": ""})])
    assert tokenize.instance_group[0].count == 1
    assert tokenize.parameters["max_bytes"].string_value == str((1 << 20) + 4)


def test_settings_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        "versions = 3\n[embed]\ncache = true\nmax_bytes = 99\n"
        "[encoder]\ngpus = [1]\nallocation = 'STATIC'\n"
    )
    assert read_settings(path) == Settings(
        versions=3,
        embed=Front(cache=True, max_bytes=99),
        encoder=EncoderSettings(gpus=(1,), allocation=Allocation.STATIC),
    )
    assert read_settings(None) == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "x: unknown, expected one of embed, tokenize, encoder, versions"),
        ("[embed]\ninstance = 1", "[embed] instance: unknown, expected one of instances, cache"),
        ("[embed]\ninstances = 0", "[embed] instances: got 0, expected 1 to 64"),
        ("[embed]\ncache = 1", "[embed] cache: got 1, expected bool"),
        ("[embed]\nmax_bytes = 0", "[embed] max_bytes: got 0, expected 1 to 2147483647"),
        ("[embed]\nmax_bytes = 1e6", "[embed] max_bytes: got 1000000.0, expected int"),
        ("[encoder]\ninstances = true", "got True, expected int"),
        ("[encoder]\ngpus = ['a']", "expected a list of whole numbers"),
        ("[encoder]\nallocation = 'x'", "expected ON_PROFILE_CHANGE or STATIC"),
        ("[encoder]\nbatching = true", "expected gpu or always or never"),
        ("embed = 3", "embed: got 3, expected a table"),
        ("versions = 0", "versions: got 0, expected 1 to 100"),
        ("[embed", "not valid TOML"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_settings(path)
    assert words in str(caught.value)
    assert "\n" not in words


def triton(out: Path, *bundles: Path, **options: object) -> int:
    more = [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
    return run_cli("triton", "--bundle", *bundles, "--out", out, *more)


def test_repository_is_complete_in_itself_and_deterministic(
    tmp_path: Path, small_bundle: Path, chunk_bundle: Path
) -> None:
    for name in ("a", "b"):
        assert triton(tmp_path / name, small_bundle, chunk_bundle) == 0
    found = listing(tmp_path / "a")
    assert found == listing(tmp_path / "b")
    for model in ("embed", "tokenize", "encoder-separation-fp32", "encoder-switchable-chunks-fp32"):
        parsed = text_format.Parse(found[f"{model}/config.pbtxt"].decode(), pb.ModelConfig())
        assert (parsed.name, parsed.backend) == (model, "python")
        assert f"{model}/1/model.py" in found
        source = found[f"{model}/1/runtimes/embedder.py"]
        assert source == (Path(__file__).parents[2] / "runtimes/embedder.py").read_bytes()
    assert not any("torch" in name or "triton_client" in name for name in found)
    weights = tmp_path / "a" / "encoder-separation-fp32" / "1" / "onnx" / "model.onnx_data"
    assert weights.samefile(small_bundle / "onnx" / "model.onnx_data")


def test_repository_for_other_backends(tmp_path: Path, small_bundle: Path) -> None:
    assert triton(tmp_path / "r", small_bundle, encoder="onnxruntime", triton_version="25.08") == 0
    folder = tmp_path / "r" / "encoder-separation-fp32"
    assert {p.name for p in (folder / "1").iterdir()} == {"model.onnx", "model.onnx_data"}
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert (config.backend, config.default_model_filename) == ("onnxruntime", "model.onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "tensorrt"}, "ENCODER=tensorrt: the bundle has no TensorRT engine"),
        ({"encoder": "cuda"}, "ENCODER: got 'cuda', expected one of auto, tensorrt"),
        ({"triton_version": "x"}, "TRITON_VERSION: got 'x'"),
        ({"settings": "/nowhere.toml"}, "/nowhere.toml: no such file"),
    ],
)
def test_refusal_keeps_the_former_repository(
    tmp_path: Path,
    small_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, str],
    words: str,
) -> None:
    out = tmp_path / "r"
    assert triton(out, small_bundle) == 0
    before = listing(tmp_path)
    assert triton(out, small_bundle, **options) == 2
    assert words in capsys.readouterr().err
    assert listing(tmp_path) == before


def test_bundles_that_cannot_be_served_together_are_refused(
    tmp_path: Path, small_bundle: Path, bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert triton(tmp_path / "r", small_bundle, bundle_copy) == 2
    assert "both have the task separation" in capsys.readouterr().err
    edit_json(bundle_copy / "manifest.json", dimensions=[8, 64], output_ranges={})
    assert triton(tmp_path / "r", small_bundle, bundle_copy) == 2
    assert "is of another model" in capsys.readouterr().err
    edit_json(bundle_copy / "manifest.json", adapter="slot", slot_rank=4, layout="flat")
    assert triton(tmp_path / "r", bundle_copy) == 2
    assert "adapter slot" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_folder_that_is_no_repository_is_not_replaced(tmp_path: Path, small_bundle: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    assert triton(tmp_path / "mine", small_bundle) == 2
    assert (tmp_path / "mine" / "file").read_text() == "precious"


@pytest.mark.parametrize("place", ["link", "file", "another's models", "ours and another's"])
def test_only_a_repository_of_ours_and_nothing_else_is_replaced(
    tmp_path: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Others have a model called embed too, and models of theirs beside ours."""
    out = tmp_path / "r"
    if place == "file":
        out.write_text("precious")
    elif place == "another's models":
        (out / "embed" / "1").mkdir(parents=True)
        (out / "embed" / "config.pbtxt").write_text('name: "embed"')
    else:
        assert triton(tmp_path / "ours", small_bundle) == 0
    if place == "link":
        out.symlink_to(tmp_path / "ours")
    elif place == "ours and another's":
        (tmp_path / "ours").rename(out)
        (out / "my-reranker" / "1").mkdir(parents=True)
    before = listing(tmp_path)
    assert triton(out, small_bundle) == 2
    words = "also holds 'my-reranker'" if "ours and" in place else "is no repository of ours"
    assert words in capsys.readouterr().err
    assert listing(tmp_path) == before
    assert out.is_symlink() == (place == "link")


def test_repository_is_replaced_whole(tmp_path: Path, small_bundle: Path) -> None:
    for encoder in ("onnxruntime", "python"):
        assert triton(tmp_path / "r", small_bundle, encoder=encoder, triton_version="25.08") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r" / "encoder-separation-fp32" / "1" / "model.py").is_file()


def test_manifest_without_a_head_is_of_a_sentence_bundle(bundle_copy: Path) -> None:
    from runtimes.manifest import read_manifest

    edit_json(bundle_copy / "manifest.json", drop=("head",))
    assert read_manifest(bundle_copy).head == "sentence"
    assert replace(read_manifest(bundle_copy), head=HeadName.CHUNKS).to_json()["head"] == "chunks"
