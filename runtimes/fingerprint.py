"""What determines a vector, in one record: whether a bundle and an index belong together.

A fingerprint is of vectors of one task, length and output type. It names what made them (hashes of
the model, the tokenizer and a slot's adapter, the instruction) and holds the vectors of sixteen
fixed texts (:mod:`runtimes.canaries`), by which another engine's are measured. It travels as JSON:
in a bundle's ``fingerprint.json``, and under :data:`KEY` in the schema metadata of Parquet files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from runtimes.arrays import Encoded, Vectors
from runtimes.canaries import CANARIES, LEAST, texts_sha256
from runtimes.choices import TASK_NAME, FileKind, OutputType, Precision, Target
from runtimes.errors import InputError, shown
from runtimes.files import sha256
from runtimes.manifest import Manifest
from runtimes.outputs import truncate
from runtimes.text.tokens import TextTokenizer
from runtimes.text.vocabulary import holds
from runtimes.typed_json import Plain, as_record, read_object

SCHEMA = 1
KEY = b"adaptrt.fingerprint"  # in the schema metadata of Parquet files
FORMAT = "adaptrt.fingerprint"  # what the JSON says of itself
MAX_BYTES = 32 << 20  # of one record; 16 vectors of 10,000 numbers are 0.9 MB
_HINT = "write it again with adaptrt index export, or the index with adaptrt embed"
_UNIT = 1e-3  # how far a canary's length may be from 1

_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Size = Annotated[int, Meta(ge=1, le=10**7)]


class Named(Protocol):
    """What runs a model."""

    @property
    def name(self) -> str:
        """What it is, as manifests record it."""


class Embeds(Protocol):
    """What a fingerprint can be taken of: an open :class:`~runtimes.embedder.Embedder`."""

    manifest: Manifest
    tokenizer: TextTokenizer
    adapter_file: Path | None

    @property
    def runtime(self) -> Named:
        """What runs the model."""

    def encode(
        self,
        texts: Iterable[str],
        *,
        task: str | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
    ) -> Encoded:
        """One unit vector per text."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Of vectors of one kind.

    Identity, in which two that belong together agree: ``model`` (every file of the checkpoint that
    shapes vectors, a merged adapter of one's own among them), ``task`` and the ``prefix`` put
    before each text, ``adapter`` (the SHA-256 of the file in a slot), ``dimensions``, whether
    vectors are ``normalised`` to length 1, ``output`` type, ``tokenizer``.

    Information: ``precision`` and ``target`` of the bundle; ``executed`` ran the canaries; a text
    of more than ``max_tokens`` was cut; ``range`` is the magnitude that 8-bit output has as 127.

    ``canaries`` are the float32 vectors ``[dimensions]``, little-endian, of the texts whose hash
    is ``canary_texts``: unit vectors, before ``output``; None where the bundle does not take the
    text.
    """

    format: Annotated[str, Meta(pattern=rf"^{FORMAT}\Z")] = FORMAT
    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)] = SCHEMA
    model: _Sha256
    model_name: Annotated[str, Meta(max_length=500)]
    task: Annotated[str, Meta(pattern=rf"^{TASK_NAME.pattern}\Z")]
    prefix: Annotated[str, Meta(max_length=10_000)]
    adapter: _Sha256 | None = None
    dimensions: _Size
    normalised: bool = True
    output: OutputType = OutputType.FLOAT32
    tokenizer: _Sha256
    precision: Precision
    target: Target
    executed: Plain
    max_tokens: _Size
    range: Annotated[float, Meta(gt=0, lt=1e12)] | None = None
    canary_texts: _Sha256
    canaries: tuple[bytes | None, ...]

    @property
    def identity(self) -> Mapping[str, object]:
        """What must be equal, by name."""
        return {name: getattr(self, name) for name in IDENTITY}

    @property
    def digest(self) -> str:
        """SHA-256 of everything but the canaries, whose last bits differ between machines."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "canaries"}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    @cached_property
    def vectors(self) -> tuple[Vectors | None, ...]:
        """The canaries, each ``[dimensions]``."""
        return tuple(None if c is None else np.frombuffer(c, "<f4") for c in self.canaries)

    def cut(self, dimensions: int) -> Fingerprint:
        """The same vectors cut to fewer dimensions, which the model must allow."""
        if dimensions == self.dimensions:
            return self
        cut = [None if v is None else truncate(v[None], dimensions)[0] for v in self.vectors]
        return replace(self, dimensions=dimensions, canaries=_packed(cut))

    def to_bytes(self) -> bytes:
        """JSON on one line: also the value of :data:`KEY` in Parquet's schema metadata."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, content: bytes, where: Path) -> Fingerprint:
        """What :meth:`to_bytes` gives, checked; ``where`` it was found begins every message."""
        if len(content) > MAX_BYTES:
            raise InputError(f"{where}: {len(content)} bytes, expected at most {MAX_BYTES}")
        try:
            raw = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{where}: the fingerprint is no JSON ({error}); {_HINT}") from error
        if not isinstance(raw, dict):
            raise InputError(f"{where}: got {shown(raw)}, expected a fingerprint; {_HINT}")
        return _checked(as_record(raw, cls, where, _HINT), where)

    @classmethod
    def read(cls, path: Path) -> Fingerprint:
        """That of a JSON file, as ``adaptrt index export`` writes it."""
        return _checked(as_record(read_object(path, _HINT), cls, path, _HINT), path)


IDENTITY = (
    "model",
    "tokenizer",
    "task",
    "prefix",
    "adapter",
    "dimensions",
    "normalised",
    "output",
)


@dataclass(frozen=True, kw_only=True)
class BundleFingerprints:
    """A bundle's ``fingerprint.json``: one of each task, at full length, as float32."""

    fingerprints: tuple[Fingerprint, ...]

    def to_bytes(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def served(cls, text: str, url: str) -> tuple[Fingerprint, ...]:
        """What a server at ``url`` says of its tasks: records without canaries."""
        where, hint = Path("fingerprints"), f"write the repository that {url} serves again"
        try:
            raw = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error}); {hint}") from error
        if not isinstance(raw, dict):
            raise InputError(f"{where}: got {shown(raw)}, expected an object; {hint}")
        if not (found := as_record(raw, cls, where, hint).fingerprints):
            raise InputError(f"{where}: got none, expected one of each task; {hint}")
        return found

    @classmethod
    def read(cls, path: Path) -> BundleFingerprints:
        """Checked; :class:`InputError` for anything else than a build writes."""
        hint = "copy the bundle again"
        file = as_record(read_object(path, hint), cls, path, hint)
        for one in file.fingerprints:
            _checked(one, path)
        return file


def fingerprint_of(
    embedder: Embeds,
    *,
    task: str | None = None,
    dimensions: int | None = None,
    output: str = OutputType.FLOAT32,
    prefix: bool = True,
) -> Fingerprint:
    """That of the vectors which ``embedder.encode`` gives with these arguments.

    The canaries are embedded now, by what the embedder runs on: the last bits of their vectors
    can differ between machines and numbers of threads, so what has to be the same byte for byte
    keeps the record rather than making it again. Raises :class:`InputError` as ``encode`` does,
    and where fewer than four of the sixteen texts can be embedded.
    """
    manifest = embedder.manifest
    name = task if task is not None else manifest.task
    embedder.encode([], task=task, dimensions=dimensions, prefix=prefix)  # refuses what is wrong
    before = manifest.prefixes.get(name, "") if prefix else ""

    def encode(text: str) -> Encoded:
        (ids,) = embedder.tokenizer.tokenize([before + text])
        if not holds(embedder.tokenizer, ids):  # its policy may be to embed it another way
            raise InputError("tokens that the bundle does not hold")
        return embedder.encode([text], task=task, dimensions=dimensions, prefix=prefix, strict=True)

    found = embed_canaries(encode)
    return make_fingerprint(
        manifest,
        task=name,
        vectors=found,
        executed=embedder.runtime.name,
        output=output,
        prefix=prefix,
        adapter=embedder.adapter_file,
    )


def embed_canaries(encode: Callable[[str], Encoded]) -> list[Vectors | None]:
    """Each text's vector; None where ``encode``, which gives one row, refuses the text.

    A text can be too long, or of tokens that a bundle does not have. Raises :class:`InputError`
    where fewer than four are left.
    """
    vectors: list[Vectors | None] = []
    refusal: InputError | None = None
    for text in CANARIES:
        try:
            vectors.append(encode(text)[0])
        except InputError as error:
            vectors.append(None)
            refusal = refusal or error
    if (count := sum(vector is not None for vector in vectors)) < LEAST:
        raise InputError(
            f"fingerprint: {count} of the {len(CANARIES)} canary texts can be embedded, expected "
            f"at least {LEAST}: {refusal}"
        )
    return vectors


def make_fingerprint(
    manifest: Manifest,
    *,
    task: str,
    vectors: Iterable[Vectors | None],
    executed: str,
    output: str = OutputType.FLOAT32,
    prefix: bool = True,
    adapter: Path | None = None,
) -> Fingerprint:
    """The record around canaries that were embedded; ``vectors`` one per text, unit length.

    Of a server that is not asked yet, they are none: the record then is of the full length.
    """
    rows = list(vectors)
    kind = OutputType.parse("output", output)
    width = next((len(vector) for vector in rows if vector is not None), manifest.dimensions[-1])
    return Fingerprint(
        model=manifest.model.sha256,
        model_name=manifest.model.name,
        task=task,
        prefix=manifest.prefixes[task] if prefix else "",
        adapter=None if adapter is None else sha256(adapter),
        dimensions=width,
        output=kind,
        tokenizer=manifest.artifact(FileKind.TOKENIZER).sha256,
        precision=manifest.precision,
        target=manifest.target.name,
        executed=_plain(executed),
        max_tokens=manifest.max_tokens,
        range=manifest.output_ranges.get(task, {}).get(str(width)),
        canary_texts=texts_sha256(),
        canaries=_packed(rows),
    )


def with_canaries(
    one: Fingerprint, vectors: Iterable[Vectors | None], executed: str
) -> Fingerprint:
    """The record with canaries that were embedded since, of their length."""
    rows = list(vectors)
    width = next((len(vector) for vector in rows if vector is not None), one.dimensions)
    return replace(one, dimensions=width, executed=_plain(executed), canaries=_packed(rows))


def _plain(text: str) -> str:
    return "".join(c for c in text if " " <= c <= "~")[:200]


def _packed(vectors: Iterable[Vectors | None]) -> tuple[bytes | None, ...]:
    return tuple(None if v is None else np.asarray(v, "<f4").tobytes() for v in vectors)


def _checked(one: Fingerprint, where: Path) -> Fingerprint:
    """What types cannot say of it."""
    if one.canary_texts == texts_sha256() and len(one.canaries) != len(CANARIES):
        raise InputError(
            f"{where}: got {len(one.canaries)} canaries, expected {len(CANARIES)}; {_HINT}"
        )
    for number, packed in enumerate(one.canaries):
        if packed is None:
            continue
        if len(packed) != 4 * one.dimensions:
            raise InputError(
                f"{where}: canaries[{number}]: got {len(packed)} bytes, expected "
                f"{4 * one.dimensions} for {one.dimensions} dimensions; {_HINT}"
            )
        length = float(np.linalg.norm(np.frombuffer(packed, "<f4").astype(np.float64)))
        if not abs(length - 1) <= _UNIT:  # NaN too
            raise InputError(
                f"{where}: canaries[{number}]: got a vector of length {length:.4g}, expected 1; "
                f"{_HINT}"
            )
    return one
