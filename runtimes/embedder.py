"""Text to vectors from a bundle. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtimes.base import Arrays, Runtime, RuntimeBase
from runtimes.chunks import (
    OVERLAP,
    ChunkHead,
    ChunkVectors,
    Document,
    Span,
    choose_spans,
    embed_chunks,
)
from runtimes.errors import InputError
from runtimes.manifest import Manifest, read_manifest
from runtimes.scheduler import schedule
from runtimes.tokens import Ids, TextTokenizer
from runtimes.vnni import warn_without_vnni

Vectors = NDArray[np.float32]
_ORT_DEVICES = {"onnxruntime": "cpu", "onnxruntime_cuda": "cuda"}
_ENGINES = ("tensorrt_rtx", "tensorrt")
_SLOW_TOKENS = 20_000  # fewer take no time worth a progress bar


class Embedder(RuntimeBase):
    """Embeds texts with one bundle.

    >>> Embedder.load("build/sample/classification-fp16").encode(["Guten Tag"]).shape
    (1, 256)
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: TextTokenizer,
        runtime: Runtime,
        folder: Path | None = None,
    ) -> None:
        self.manifest, self.tokenizer = manifest, tokenizer
        self.runtime = ChunkHead(runtime) if manifest.head == "chunks" else runtime
        self._folder = folder

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        runtime: str = "onnxruntime",
        threads: int | None = None,
        adapter: str | Path | None = None,
    ) -> Self:
        """Open a bundle.

        ``runtime`` names the executor and is never replaced by another: ``onnxruntime`` runs the
        bundle's CPU graph (half-precision weights, FP32 arithmetic), ``onnxruntime_cuda`` its
        graph for NVIDIA GPUs, ``tensorrt_rtx`` and ``tensorrt`` its engine for the GPU that is
        present. ``adapter`` is an ``.onnx_adapter`` file for a bundle with a slot. Raises
        :class:`InputError` for a bundle that is incomplete or has nothing for the executor, and
        for an adapter that was made for another model; :class:`MissingError` where the GPU, a
        library or an engine for this GPU is missing.
        """
        folder = Path(bundle)
        manifest = read_manifest(folder)
        if runtime in _ENGINES:
            from runtimes.trt import open_engine

            if adapter is not None:
                raise InputError("adapter: engines have no slot; use runtime='onnxruntime'")
            tokenizer = load_tokenizer(folder, manifest)  # first: it takes no GPU memory
            return cls(manifest, tokenizer, open_engine(folder, manifest, runtime), folder)
        if runtime not in _ORT_DEVICES:
            known = ", ".join((*_ORT_DEVICES, *_ENGINES))
            raise InputError(f"runtime: got {runtime!r}, expected one of {known}")
        from runtimes.ort import OrtRuntime, PooledOrtRuntime

        if manifest.precision == "int8" and _ORT_DEVICES[runtime] == "cpu":
            warn_without_vnni()
        path = None
        if adapter is not None:
            from runtimes.adapter_file import check_adapter

            path = check_adapter(Path(adapter), manifest)
        kind = PooledOrtRuntime if manifest.interface == "official" else OrtRuntime
        graph = folder / manifest.artifact(runtime).path
        tasks = manifest.tasks if manifest.adapter == "switchable" else ()
        device = _ORT_DEVICES[runtime]
        executor = kind(graph, device=device, threads=threads, adapter=path, tasks=tasks)
        return cls(manifest, load_tokenizer(folder, manifest), executor, folder)

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return self.manifest.dimensions

    def encode(
        self,
        texts: Sequence[str],
        *,
        task: str | Sequence[str] | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> Vectors:
        """One unit vector per text, FP32 ``[n, dimensions]``, in the order given.

        ``task`` is one name for all texts or one per text; a switchable bundle needs it (``base``
        is the model without an adapter), a merged bundle knows its own and refuses others.
        ``prefix`` puts the task's instruction before each text, as the model was trained.
        ``dimensions`` cuts (Matryoshka) and normalises again. ``strict`` refuses a text that is
        longer than the bundle takes, which otherwise is truncated with a ``TruncationWarning``.
        ``progress`` shows a bar on a terminal when there is much to do. How texts are grouped
        into calls (:mod:`runtimes.scheduler`) does not show in the vectors.
        """
        if isinstance(texts, str):
            raise InputError("texts: got one str, expected a list of them: encode([text])")
        width = self._width(dimensions)
        tasks = self._tasks(task, len(texts))
        prefixes = [self.manifest.prefixes[t] if prefix else "" for t in tasks]
        rows = self.tokenizer.encode(texts, prefixes, strict=strict)
        vectors = np.empty((len(rows), self.dimensions[-1]), np.float32)
        lengths = [len(row) for row in rows]
        batches = schedule(lengths, self.manifest.max_batch, self.runtime.budget)
        for batch in _with_progress(batches, lengths) if progress else batches:
            inputs: dict[str, Ids] = dict(self.tokenizer.pad([rows[i] for i in batch]).inputs())
            if self._switchable:
                inputs["task_id"] = np.array([self._task_id(tasks[i]) for i in batch], np.int64)
            vectors[batch] = self.runtime.run(inputs)["sentence_embedding"]
        return truncate(vectors, width)

    def encode_chunks(
        self,
        document: str,
        chunks: Sequence[Span] | None = None,
        *,
        chunk_tokens: int | None = None,
        sentences: int | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        prefix: bool = True,
        overlap: int = OVERLAP,
    ) -> ChunkVectors:
        """Late chunking: embed the document once and mean-pool each span of it.

        Give ``chunks`` as character offsets (start, end), ``chunk_tokens`` per chunk or
        ``sentences`` per chunk. A document longer than the bundle takes is embedded in windows,
        each ``overlap`` tokens before its first chunk; the result says which. Needs a bundle
        built with ``HEAD=chunks``.
        """
        if self.manifest.head != "chunks":
            raise InputError(
                "late chunking: this bundle gives one vector per text; build one with HEAD=chunks"
            )
        width = self._width(dimensions)
        (name,) = self._tasks(task, 1)
        text = Document(self.tokenizer, document, self.manifest.prefixes[name] if prefix else "")
        number = {"task_id": np.array([self._task_id(name)])} if self._switchable else {}

        def run(inputs: Arrays) -> Arrays:
            return self.runtime.run({**inputs, **number})

        spans = choose_spans(text, chunks, chunk_tokens, sentences)
        found = embed_chunks(self.tokenizer, text, spans, overlap, run)
        return replace(found, vectors=truncate(found.vectors, width))

    def close(self) -> None:
        """Free the runtime."""
        self.runtime.close()

    @property
    def _switchable(self) -> bool:
        return self.manifest.adapter == "switchable"

    def _task_id(self, task: str) -> int:
        return -1 if task not in self.manifest.tasks else self.manifest.tasks.index(task)

    def _tasks(self, task: str | Sequence[str] | None, count: int) -> list[str]:
        known = tuple(self.manifest.prefixes)
        if task is None:
            if self._switchable:
                raise InputError(f"task: none given, expected one of {', '.join(known)}")
            task = self.manifest.task
        tasks = [task] * count if isinstance(task, str) else list(task)
        if len(tasks) != count:
            raise InputError(f"task: got {len(tasks)} tasks for {count} texts")
        for name in tasks:
            if name not in known:
                raise InputError(f"task: got {name!r}, {self._where(name, known)}")
        return tasks

    def _where(self, task: str, known: Sequence[str]) -> str:
        if self._switchable:
            return f"expected one of {', '.join(known)}"
        own = self.manifest.task
        if self._folder is not None and self._folder.name.startswith(own):  # else named by NAME
            sibling = self._folder.with_name(task + self._folder.name.removeprefix(own))
            if (sibling / "manifest.json").is_file():
                return f"this bundle has {own}; load {sibling}"
        return f"this bundle has {own}; build one with `make engine TASK={task}`"

    def _width(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dimensions[-1]
        if dimensions not in self.dimensions:
            known = ", ".join(map(str, self.dimensions))
            raise InputError(f"dimensions: got {dimensions}, expected one of {known}")
        return dimensions


def load_tokenizer(folder: Path, manifest: Manifest) -> TextTokenizer:
    """The bundle's tokenizer."""
    path = folder / manifest.artifact("tokenizer").path
    return TextTokenizer(path, max_tokens=manifest.max_tokens, pad_id=manifest.pad_id)


def truncate(vectors: Vectors, width: int) -> Vectors:
    """The first ``width`` columns, each row scaled to length 1 again."""
    if width == vectors.shape[1]:
        return vectors
    cut = vectors[:, :width]
    shortened: Vectors = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return shortened


def _with_progress(batches: Iterable[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The batches, and a bar of tokens on standard error; silent for little work or no terminal."""
    from tqdm import tqdm

    total = sum(lengths)
    quiet = True if total < _SLOW_TOKENS else None  # None: off where there is no terminal
    with tqdm(total=total, unit="token", unit_scale=True, disable=quiet, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(sum(lengths[i] for i in batch))
