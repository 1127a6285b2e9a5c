"""Every two choices together, on a tiny model: a bundle that works, or a refusal before any work.

What is refused, and why, is written down here apart from the code that refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

import export.build.inputs
from adaptrt import Embedder
from export.checkpoint.reader import open_checkpoint
from export.gate.reference import reference_model
from runtimes.executors.tensorrt.cuda import device_sm
from tests.pairwise import Features, cover, pairs
from tests.peft_zoo import mean_vectors
from tests.support import Array, cosines, few_gate_texts, listing, run_cli, sample_tokenizer
from tests.zoo import Size, write_native, write_original


@dataclass(frozen=True)
class Combination:
    precision: str
    head: str
    adapter: str
    target: str
    format: str
    interface: str
    embeddings: str

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(vars(self).values())

    def __str__(self) -> str:
        return "-".join(self.values)

    @property
    def options(self) -> list[str]:
        """As the command line takes them; the format is the model's."""
        choices = {name: value for name, value in vars(self).items() if name != "format"}
        return [word for name, value in choices.items() for word in (f"--{name}", value)]


@dataclass(frozen=True)
class Refusal:
    """Which combinations are refused, with which exit code and words."""

    refuses: Callable[[Combination], bool]
    code: int
    words: str


REFUSALS = (
    Refusal(lambda c: c.target == "tensorrt", 4, "no NVIDIA GPU is visible"),
    Refusal(
        lambda c: c.head == "chunks" and (c.adapter == "slot" or c.interface == "official"),
        2,
        "HEAD=chunks: expected ADAPTER=merged or switchable, INTERFACE=sentence",
    ),
    Refusal(
        lambda c: c.interface == "official" and c.adapter != "switchable",
        2,
        "INTERFACE=official has a task_id, so it needs every adapter: add ADAPTER=switchable",
    ),
    Refusal(
        lambda c: (
            (c.adapter == "slot" or c.interface == "official")
            and c.target in ("tensorrt_rtx", "tensorrt10")
        ),
        2,
        "ADAPTER=slot and INTERFACE=official are for ONNX Runtime: add TARGET=onnxruntime",
    ),
    Refusal(
        lambda c: c.precision == "fp8" and c.target == "tensorrt10",
        2,
        "PRECISION=fp8: TARGET=tensorrt10 multiplies no FP8; expected TARGET=tensorrt_rtx or "
        "tensorrt",
    ),
    Refusal(
        lambda c: c.precision == "fp8" and c.target == "onnxruntime",
        2,
        "PRECISION=fp8: TARGET=onnxruntime multiplies no FP8",
    ),
    Refusal(
        lambda c: c.precision in ("int8w", "int4w") and c.target == "tensorrt10",
        2,
        "W; expected TARGET=tensorrt_rtx or tensorrt or onnxruntime",
    ),
    Refusal(
        lambda c: c.adapter == "slot" and c.precision == "bf16",
        2,
        "ADAPTER=slot: ONNX Runtime adapter files hold no BF16; use fp32 or fp16",
    ),
    Refusal(
        lambda c: c.adapter == "slot" and c.precision in ("int8", "fp8"),
        2,
        "8's ranges cannot know the adapter that will fill the slot",
    ),
)
ALL = [
    Combination(*values)
    for values in product(
        ("fp32", "fp16", "bf16", "int8", "fp8", "int8w", "int4w"),
        ("sentence", "chunks"),
        ("merged", "switchable", "slot"),
        ("tensorrt_rtx", "tensorrt", "tensorrt10", "onnxruntime"),
        ("original", "native"),
        ("sentence", "official"),
        ("same", "int8"),  # a row of the model is shorter than a block of INT4
    )
]


def broken(combination: Combination) -> list[Refusal]:
    return [refusal for refusal in REFUSALS if refusal.refuses(combination)]


def asked(combination: Combination) -> Features:
    """The pairs, and the refusal where it is the only one there can be."""
    reasons = broken(combination)
    return pairs(combination.values) | (frozenset(reasons) if len(reasons) == 1 else frozenset())


# Pairs that can be built are built; the others, and every refusal by itself, are asked for.
ALLOWED = cover([c for c in ALL if not broken(c)], asked)
BUILT = frozenset().union(*(asked(c) for c in ALLOWED))
REFUSED = cover([c for c in ALL if broken(c)], lambda c: asked(c) - BUILT)

TASK = "classification"
TEXTS = ["Where is the station?", "東京は雨です。", "ok"]
# The least cosine to FP32; INT8's and FP8's are the gate's own, far below what they reach here.
COSINES = {
    "fp32": 0.999999,
    "fp16": 0.9999,
    "bf16": 0.999,
    "int8": 0.99,
    "fp8": 0.995,
    "int8w": 0.9999,
    "int4w": 0.99,
}


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    """Few of INT8's own texts. Random weights hardly rank: quality is judged mildly there."""
    with pytest.MonkeyPatch.context() as patch:
        few_gate_texts(patch)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in both formats: random, 64 wide, two layers."""
    root = tmp_path_factory.mktemp("models")
    original = write_original(root / "original", Size())
    return {"original": original, "native": write_native(original, root / "native", adapters=True)}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, where INT8's calibrations are found again."""
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def expected(models: dict[str, Path]) -> Array:
    """The vectors by transformers and PEFT, text by text."""
    checkpoint = open_checkpoint(models["original"])
    prefix = checkpoint.config.prefix(TASK)
    model = reference_model(checkpoint, TASK)
    return mean_vectors(model, sample_tokenizer().encode([prefix + text for text in TEXTS]))


def build(combination: Combination, model: Path, out: Path) -> int:
    small = ("--max-tokens", 64, "--parity-tokens", 24, "--calibration-texts", 120)
    where = ("--model", model, "--out", out, "--gpu", "sm89")
    # 64 channels average little of an error: with all products in E4M3 the mean is 0.998, and of
    # INT8W's vectors the first 32 numbers of one text are at 0.99987.
    noisy = combination.precision in ("fp8", "int4w", "int8w")
    more = ("--int8-fallback-max", 0.9) if noisy else ()
    return run_cli("engine", *where, *small, *more, *combination.options)


@pytest.mark.parametrize("combination", ALLOWED, ids=str)
def test_allowed_combination_builds_verifies_and_embeds(
    combination: Combination, models: dict[str, Path], out: Path, expected: Array
) -> None:
    before = set(out.glob("*/*/manifest.json"))
    assert build(combination, models[combination.format], out) == 0
    (manifest,) = set(out.glob("*/*/manifest.json")) - before
    bundle = manifest.parent
    assert run_cli("verify", "--bundle", bundle) == 0
    with Embedder.load(bundle) as embedder:
        vectors = embedder.encode(TEXTS, task=TASK)
        least = COSINES[combination.precision]
        assert cosines(vectors, expected).min() >= (
            least if combination.embeddings == "same" else min(least, 0.9999)
        )
        steps = embedder.encode(TEXTS, task=TASK, output="int8")
        assert cosines(steps, vectors).min() >= 0.9995
        if combination.head == "chunks":
            chunks = embedder.encode_chunks("One. Two.", [(0, 4), (4, 9)], task=TASK)
            assert chunks.vectors.shape == (2, vectors.shape[1])


@pytest.mark.parametrize("combination", REFUSED, ids=str)
def test_other_combination_is_refused_in_one_line_before_any_work(
    combination: Combination,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if combination.target == "tensorrt" and device_sm():
        pytest.skip("a GPU is here, so that TensorRT's engines can be built")
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    before = listing(tmp_path)

    def opened(*_: object) -> None:
        raise AssertionError("the checkpoint was opened")

    monkeypatch.setattr(export.build.inputs, "open_checkpoint", opened)
    code = build(combination, models[combination.format], out)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert any(code == reason.code and reason.words in line for reason in broken(combination))
    assert listing(tmp_path) == before


def test_rows_show_every_pair_and_every_refusal() -> None:
    shown = [asked(c) for c in (*ALLOWED, *REFUSED)]
    assert frozenset().union(*shown) >= {p for c in ALL for p in pairs(c.values)} | {*REFUSALS}
    assert len(ALLOWED) + len(REFUSED) < len(ALL) / 5


@pytest.mark.parametrize("row", range(len(ALLOWED) + len(REFUSED)))
def test_no_row_can_be_left_out(row: int) -> None:
    """Negative control: without any one of them a pair is not built, or not asked for."""
    kept = [c for number, c in enumerate((*ALLOWED, *REFUSED)) if number != row]
    built = frozenset().union(*(asked(c) for c in kept if not broken(c)))
    shown = frozenset().union(*(asked(c) for c in kept))
    assert built < BUILT or shown < BUILT.union(*(asked(c) for c in REFUSED))
