"""What a job is made of, frozen: the request, the files, the splits, what became of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from runtimes.arguments import check_flag, check_whole
from runtimes.choices import Choice, OutputType
from runtimes.errors import InputError, shown
from runtimes.outputs import OUTPUTS
from runtimes.text.tokens import MAX_BYTES

SPLIT_BYTES = 4 << 20  # of text in a split: about a million tokens
_Number = Annotated[int, Meta(ge=0, le=2**62)]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class OnError(Choice):
    """What happens at a row that cannot be embedded."""

    STOP = "stop"
    SKIP = "skip"


class Engine(Choice):
    """What shares the splits out."""

    LOCAL = "local"
    RAY = "ray"


class Stored(Choice):
    """The type of a stored vector's values."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"  # a bit per value, packed into int8
    UBINARY = "ubinary"  # the same into uint8

    @property
    def output(self) -> OutputType:
        """What the embedder gives; float16 is its float32, rounded."""
        return OutputType.FLOAT32 if self is Stored.FLOAT16 else OutputType(self.value)

    def bytes_per_vector(self, width: int) -> int:
        """Of ``width`` values."""
        whole = OUTPUTS[self.output].bytes_per_vector(width)
        return whole // 2 if self is Stored.FLOAT16 else whole


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the bundle is opened, as :meth:`runtimes.embedder.Embedder.load` takes it.

    ``max_bytes`` apart, all of it shows in the vectors, ``threads`` in the last bits of a few.
    """

    bundle: Path
    runtime: str = "auto"
    device: str | None = None
    threads: int | None = None
    adapter: Path | None = None
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is made of each text. A job that goes on must want the same.

    ``keep`` are input columns that the output has too. ``chunk_tokens`` or ``sentences`` is set
    for late chunking, which gives a row per chunk.
    """

    column: str = "text"
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    task: str | None = None
    dimensions: int | None = None
    output: Stored = Stored.FLOAT32
    prefix: bool = True
    strict: bool = False
    chunk_tokens: int | None = None
    sentences: int | None = None
    split_bytes: int = SPLIT_BYTES

    def __post_init__(self) -> None:
        """Raises :class:`InputError` for what cannot be meant."""
        taken = (*_OUTPUT_COLUMNS, *(() if self.id_column is None else (self.id_column,)))
        for index, name in enumerate(self.keep):
            if name in taken or name in self.keep[:index]:
                raise InputError(
                    f"--keep: got {shown(name)}, which the output has already; leave it out, or "
                    "rename the column"
                )
        if self.chunk_tokens is not None and self.sentences is not None:
            raise InputError("--chunk-tokens and --sentences: got both, expected one of them")
        for flag, value in (("--chunk-tokens", self.chunk_tokens), ("--sentences", self.sentences)):
            if value is not None:
                check_whole(flag, value, 1)
        check_whole("--split-bytes", self.split_bytes, 1)
        check_flag("prefix", self.prefix)
        check_flag("strict", self.strict)

    @property
    def chunked(self) -> bool:
        """Whether a row is a chunk."""
        return self.chunk_tokens is not None or self.sentences is not None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A corpus (a file, a folder or a glob), a bundle, and the folder that the parts go to."""

    input: str
    out: Path
    wanted: Wanted
    loading: Loading
    on_error: OnError = OnError.STOP

    @property
    def skips(self) -> bool:
        """Whether rows that cannot be embedded are left out."""
        return self.on_error is OnError.SKIP


_OUTPUT_COLUMNS = ("id", "chunk", "start", "end", "embedding")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the input; ``path`` below the input's root, ``modified`` in nanoseconds."""

    path: str
    bytes: _Number
    modified: int


@dataclass(frozen=True, kw_only=True)
class Split:
    """The unit of work: what becomes one part.

    ``start`` to ``stop`` of a file: bytes of its (uncompressed) lines, or rows of Parquet.
    ``bytes`` is its share of the file, for the time that is left. ``damage`` is why the file
    cannot be read at all.
    """

    index: _Number
    file: File
    start: _Number
    stop: _Number
    bytes: _Number
    damage: str | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that is not in the output. ``position``: as in ``id``, where it begins in the file.

    With ``rest`` nothing after it could be read either, to the end of its split.
    """

    file: str
    position: _Number
    reason: str
    rest: bool = False

    @property
    def place(self) -> str:
        """For messages."""
        return f"{shown(self.file)}, at {self.position}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished part. ``cut`` texts were longer than the bundle takes."""

    split: _Number
    part: str
    bytes: _Number
    sha256: _Sha256
    rows: _Number
    texts: _Number
    tokens: _Number
    cut: _Number
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a worker needs, and that a part's name and bytes follow from.

    ``fingerprint`` is that of the vectors, as JSON. ``identity`` is what a job that goes on must
    have in common with the one that began, by name. ``columns`` are what is kept of the input,
    ``schema`` the output's, both as Arrow serialises them.
    """

    root: Path
    out: Path
    kind: str
    wanted: Wanted
    loading: Loading
    columns: bytes
    schema: bytes
    fingerprint: bytes
    identity: Mapping[str, object] = field(default_factory=dict)
    on_error: OnError = OnError.STOP

    def part(self, split: Split) -> str:
        """The name of a split's part: its place, and a hash of what its bytes follow from."""
        whole = [self.identity, split.file.path, split.file.bytes, split.start, split.stop]
        text = json.dumps([*whole, split.damage], sort_keys=True)
        return f"part-{split.index:08d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"

    @property
    def staged(self) -> Path:
        """Where parts are written before they are whole."""
        return self.out / STATE / "staged"


STATE = "_adaptrt"  # readers of folders of Parquet leave names with _ out


def plain(value: Loading | Wanted) -> dict[str, object]:
    """JSON types."""
    return {name: _plain(entry) for name, entry in asdict(value).items()}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
