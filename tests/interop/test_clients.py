"""Programs that know nothing of bundles give the embedder's vectors, each in its environment."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest

from runtimes.choices import AdapterMode
from runtimes.manifest import read_manifest
from runtimes.open import cpu_executor
from tests.interop.client_table import (
    BUNDLES,
    CLIENTS,
    RECORD,
    ROOT,
    RUN,
    Client,
    Outcome,
    outcome,
    read,
    write,
)
from tests.interop.retrieval import distance, embed
from tests.support import Array, edit_graph, edit_json, rehash

PROGRAMS = Path(__file__).parent / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
# Which task the bundles of all tasks are asked for, and its number in them.
TASK, NUMBER = "classification", 3
LONG = "The house of the old captain stands by the sea, and nobody has opened its door. " * 20
TEXTS = [
    "The last train leaves at ten.",
    "東京は雨です。",
    " ",
    "ok",
    "Wo ist der Bahnhof, bitte?",
    "Поезд уходит в десять. القطار",
    "two lines\nand a tab\t, two  spaces ﬁne ｶﾞ",
    LONG,
    "Der Zug fährt um zehn Uhr ab. " * 9,
]
ROWS = [(client, bundle) for client in CLIENTS for bundle in client.bundles]


def needed(path: Path | str | None, what: str) -> Path:
    """A file of an environment, or why a test cannot run: never skipped where CI is set."""
    if path is None or not Path(path).exists():
        reason = f"{what} is missing: `make test-interop` says why"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(path)


def command(client: Client) -> list[str]:
    """The program before its arguments, and what it takes after them."""
    folder = ENVIRONMENTS / client.environment
    needed(folder / ".installed", f"the environment {client.environment}")
    if client.program == "transformers_js":
        node = needed(shutil.which("node"), "node")
        return [str(node), str(PROGRAMS / "run_transformers_js.mjs"), str(folder / "node_modules")]
    program = str(PROGRAMS / f"run_{client.program}.py")
    if client.program == "chromium":
        chromium = needed(shutil.which("chromium"), "chromium")
        return [sys.executable, program, str(folder / "node_modules"), str(chromium)]
    return [str(folder / "bin" / "python"), program]


def ask(
    client: Client,
    bundle: Path,
    folder: Path,
    texts: list[str] = TEXTS,
    hint: str | None = "f32",
) -> subprocess.CompletedProcess[str]:
    """Run a client's program; it writes ``answer.json`` in ``folder``.

    ``hint`` is OpenVINO's INFERENCE_PRECISION_HINT, None its default.
    """
    manifest = read_manifest(bundle)
    inputs = {"task_id": NUMBER} if manifest.adapter is AdapterMode.SWITCHABLE else {}
    request = {"texts": texts, "prefix": manifest.prefix or "", "inputs": inputs, "hint": hint}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    program, script, *rest = command(client)
    files = [bundle, folder / "request.json", folder / "answer.json"]
    return run([program, script, *files, *rest], folder)


def run(words: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """A program that sees neither the project nor a hub, run in ``folder``."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        words,
        cwd=folder,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def vectors(client: Client, bundle: Path, folder: Path, texts: list[str] = TEXTS) -> Array:
    """What a client gives, [texts, dimension]; fails with what it printed."""
    done = ask(client, bundle, folder, texts)
    assert done.returncode == 0, done.stderr[-2000:]
    given: Array = np.array(answer(folder)["vectors"])
    return given


def answer(folder: Path) -> dict[str, Any]:
    """What the last client wrote."""
    given: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return given


@pytest.fixture(scope="module")
def ours(bundle_of: Callable[[str], Path]) -> Callable[[str], Array]:
    """The embedder's vectors of the texts, by the kind of bundle."""

    @functools.cache
    def encode(kind: str) -> Array:
        folder = bundle_of(kind)
        manifest = read_manifest(folder)
        every = manifest.adapter is AdapterMode.SWITCHABLE
        executor = cpu_executor(manifest).name
        return embed(folder, TEXTS, runtime=executor, **({"task": TASK} if every else {}))

    return encode


@pytest.fixture(scope="module")
def outcomes() -> Iterator[list[Outcome]]:
    """Those of this run, written where `make clients` looks for them."""
    found: list[Outcome] = []
    yield found
    write(found, RUN)


def by_name(name: str) -> Client:
    return next(client for client in CLIENTS if name in (client.name, client.environment))


@pytest.mark.parametrize(
    ("client", "kind"),
    ROWS,
    ids=[
        f"{client.environment}-{client.program}-{kind}".replace(" ", "-") for client, kind in ROWS
    ],
)
def test_client_gives_the_embedders_vectors(
    client: Client,
    kind: str,
    bundle_of: Callable[[str], Path],
    ours: Callable[[str], Array],
    outcomes: list[Outcome],
    tmp_path: Path,
) -> None:
    theirs = vectors(client, bundle_of(kind), tmp_path)
    row = outcome(client.name, answer(tmp_path)["version"], kind, theirs, ours(kind))
    outcomes.append(row)
    assert row.works, row


def test_the_documents_tell_of_this_run(outcomes: list[Outcome]) -> None:
    """The same clients, versions and verdicts; the differences are the machine's."""
    committed = {(r["client"], r["version"], r["bundle"], r["works"]) for r in read(RECORD)}
    tried = {(row.client, row.version, row.bundle, row.works) for row in outcomes}
    assert tried <= committed, "run make clients and make figures"


@pytest.mark.parametrize(
    "text", [TEXTS[0], TEXTS[1], TEXTS[4]], ids=["english", "japanese", "german"]
)
def test_int8_is_equal_call_by_call(
    bundle_of: Callable[[str], Path], tmp_path: Path, text: str
) -> None:
    """In a batch, sums of another length may round an activation to the next of 256 steps."""
    bundle = bundle_of("INT8")
    theirs = vectors(by_name("onnxruntime-newest"), bundle, tmp_path, [text])
    assert distance(theirs, embed(bundle, [text])) <= 1e-5


def test_a_limit_in_the_tokenizers_settings_would_be_seen(
    bundle_of: Callable[[str], Path], ours: Callable[[str], Array], tmp_path: Path
) -> None:
    """fastembed took `max_length: 80`, which the checkpoint's file has, and cut texts there."""
    bundle = Path(shutil.copytree(bundle_of("FP32"), tmp_path / "bundle"))
    edit_json(bundle / "tokenizer_config.json", max_length=80)
    rehash(bundle)
    theirs = vectors(by_name("fastembed"), bundle, tmp_path)
    row = outcome("fastembed", "", "FP32", theirs, ours("FP32"))
    assert not row.works
    assert row.cosine < 0.999
    assert distance(theirs[:7], ours("FP32")[:7]) <= 1e-5  # those below 80 tokens


def test_a_graph_without_token_vectors_fails_in_optimum(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundle_of("FP32"), tmp_path / "bundle"))
    edit_graph(bundle / "onnx" / "model.onnx", drop_token_vectors)
    rehash(bundle)
    done = ask(by_name("Optimum"), bundle, tmp_path)
    assert done.returncode != 0
    assert "last_hidden_state" in done.stderr


def drop_token_vectors(graph: onnx.GraphProto) -> None:
    kept = [output for output in graph.output if output.name != "last_hidden_state"]
    del graph.output[:]
    graph.output.extend(kept)


@pytest.mark.parametrize("name", ["sentence-transformers, OpenVINO", "Optimum Intel"])
def test_openvinos_clients_take_bf16_unless_told_otherwise(
    name: str, bundle_of: Callable[[str], Path], ours: Callable[[str], Array], tmp_path: Path
) -> None:
    """What the page says of leaving the hint out; it also shows that the table tells them apart."""
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    done = ask(by_name(name), bundle_of("OpenVINO"), tmp_path, hint=None)
    assert done.returncode == 0, done.stderr[-2000:]
    row = outcome(name, "", "OpenVINO", np.array(answer(tmp_path)["vectors"]), ours("OpenVINO"))
    assert not row.works
    assert row.cosine > 0.9999


@pytest.mark.parametrize("kind", BUNDLES)
def test_graph_passes_the_checker(
    kind: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a copy: the checker refuses a file that several bundles share by hard links."""
    folder = shutil.copytree(bundle_of(kind), tmp_path / "copy")
    names = ("onnx/model.onnx", "model.onnxruntime.onnx")
    path = next(folder / name for name in names if (folder / name).is_file())
    onnx.checker.check_model(str(path), full_check=True)
