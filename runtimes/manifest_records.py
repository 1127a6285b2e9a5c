"""What a bundle's manifest holds, as typed records: the files, the model, how it was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated

from msgspec import Meta

from runtimes.choices import (
    TASK_NAME,
    Accumulation,
    AdapterMode,
    ArtifactKind,
    GraphKind,
    HeadName,
    Interface,
    Layout,
    Precision,
    Target,
)
from runtimes.errors import InputError
from runtimes.profiles import DEFAULT, Profile
from runtimes.tensors import Tensor
from runtimes.typed_json import Plain

SCHEMA, SCHEMA_MINOR = 1, 7

_Number = Annotated[int, Meta(ge=0, le=2**62)]
_Size = Annotated[int, Meta(ge=1, le=10**7)]
_Positive = Annotated[float, Meta(gt=0, lt=1e12)]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Task = Annotated[str, Meta(pattern=rf"^{TASK_NAME.pattern}\Z")]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the bundle. ``gpu`` is set for engines, ``precision`` for graphs and engines.

    ``kind`` is a :data:`runtimes.choices.ArtifactKind`, or one of a newer minor schema, which is
    read as any other text.
    ``stripped`` engines hold no weights and take those of the bundle's graph when loaded.
    ``executed`` is what ran the file in the gate; None where nothing did, or before schema 1.3.
    ``memory`` is the device memory for activations in each profile, bytes; None where the engine
    was built without a GPU, which alone can say.
    """

    path: str
    kind: Plain
    bytes: _Number
    sha256: _Sha256
    precision: Precision | None = None
    gpu: Annotated[str, Meta(pattern=r"^sm\d{2,3}\Z")] | None = None
    stripped: bool = False
    memory: tuple[_Number, ...] | None = None
    executed: Plain | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """The checkpoint; ``sha256`` of its weights, ``format`` original or native."""

    name: str
    sha256: _Sha256
    format: Plain | None = None
    revision: str | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of the encoder (:class:`export.checkpoint.encoder_config.EncoderConfig`)."""

    hidden: _Size
    layers: _Size
    heads: _Size
    intermediate: _Size
    vocab: _Size
    token_types: Annotated[int, Meta(ge=0, le=10**7)]  # 0: the model has none
    max_positions: _Size
    layer_norm_eps: _Positive
    rope_theta: _Positive
    pad_id: _Number


@dataclass(frozen=True, kw_only=True)
class BuiltFor:
    """``name`` of the target; ``requested`` as the user gave it, for example "auto"."""

    name: Target
    requested: Plain | None = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the graph that speaks for the target compared with the reference.

    ``mean_threshold`` is None in bundles of the first schema, where the mean had no gate of its
    own. ``flushed_weights``: by tensor, the share of nonzero values that became zero.
    """

    reference: Plain
    executed: Plain
    rows: _Number
    min_cosine: float
    mean_cosine: float
    max_abs: float
    threshold: float
    passed: bool
    mean_threshold: float | None = None
    reference_bf16_min_cosine: float | None = None
    flushed_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Which GEMMs of the layers are quantised, and which fell back and why.

    ``share`` is the quantised GEMMs' part of all GEMMs' work, 0 to 1; ``fallback`` gives the
    reason of each GEMM that runs in ``fallback_type`` instead, or if it is among ``eased``, in
    the precision ``eased_to``. Each ``block`` numbers of a weight share a scale; None: no blocks.
    """

    scheme: Precision
    share: float
    quantised: tuple[str, ...]
    fallback: Mapping[str, str]
    fallback_type: Plain
    observer: Plain
    calibration_key: Plain
    corpus_sha256: Plain
    eased: tuple[str, ...] = ()  # these three since schema 1.6
    eased_to: Precision | None = None
    block: _Size | None = None


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Times worked out from the engines' plans; ``what`` says so: "predicted, not measured".

    ``source`` and ``version`` are of the fit that they rest on. ``milliseconds`` by GPU and call,
    "8x512" for 8 texts of 512 tokens.
    """

    what: Plain
    source: Plain
    version: Plain
    milliseconds: Mapping[Plain, Mapping[Plain, float]]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``; field by field in docs/reference/manifest.md.

    Read from a file, every entry has its type and range, and :mod:`runtimes.manifest_rules` hold.
    ``parity`` is None only in the draft that the gate opens a staged bundle by.
    """

    schema: int
    schema_minor: _Number = 0  # the first schema's bundles have no such entry
    model: Model
    architecture: Architecture
    task: _Task
    tasks: Annotated[tuple[_Task, ...], Meta(min_length=1)]
    adapter: AdapterMode
    slot_rank: Annotated[int, Meta(ge=1, le=1024)] | None
    interface: Interface
    precision: Precision
    target: BuiltFor
    max_batch: _Size
    max_tokens: Annotated[int, Meta(ge=16, le=10**7)]
    dimensions: Annotated[tuple[_Size, ...], Meta(min_length=1)]
    prefix: str
    prefixes: Mapping[_Task, str]
    pad_id: _Number
    artifacts: tuple[Artifact, ...]
    versions: Mapping[str, Plain]
    parity: Parity | None = None
    profiles: tuple[Profile, ...] = ()  # of the engines
    inputs: tuple[Tensor, ...] = ()  # of the graphs; bundles before schema 1.2 have no such entry
    head: HeadName = HeadName.SENTENCE  # the first schema's bundles have no such entry
    layout: Layout = Layout.FLAT  # bundles before schema 1.4 have no such entry
    # Of what a quantised bundle for OpenVINO does not quantise; since schema 1.5.
    rest: Precision | None = None
    quantisation: Quantisation | None = None  # where the precision quantises
    plan_waived: tuple[Plain, ...] = ()  # rules that the engines' plans break with the user's leave
    attention_accumulation: Accumulation | None = None  # of engines since schema 1.3
    predicted: Predicted | None = None  # where the engines' plans are known
    # By task and length (in digits): the magnitude that becomes int8's 127; since schema 1.4.
    output_ranges: Mapping[_Task, Mapping[Plain, _Positive]] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)

    @property
    def named_profiles(self) -> tuple[str, ...]:
        """The engines' profiles as a build asks for them: none for the one by default."""
        return tuple(profile.name for profile in self.profiles if profile.name != DEFAULT)

    @property
    def engine_graph(self) -> Artifact | None:
        """The graph that engines are built from; None where the bundle has none."""
        graphs = (e for e in self.artifacts if e.kind == GraphKind.TENSORRT and e.gpu is None)
        return next(graphs, None)

    def engines(self, target: Target) -> tuple[Artifact, ...]:
        """The engines for a target; unlike the graph of that name they say for which GPU."""
        return tuple(e for e in self.artifacts if e.kind == target and e.gpu is not None)

    def artifact(self, kind: ArtifactKind) -> Artifact:
        """The one artefact of a kind; :class:`InputError` where the bundle has none."""
        for entry in self.artifacts:
            if entry.kind == kind:
                return entry
        kinds = ", ".join(sorted({entry.kind for entry in self.artifacts}))
        raise InputError(f"the bundle has no {kind!r} artefact, only {kinds}; build it again")
