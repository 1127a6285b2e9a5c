"""Text to vectors from a bundle. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtimes.arguments import (
    check_flag,
    check_path,
    check_whole,
    is_whole,
    list_tasks,
    list_texts,
)
from runtimes.arrays import Encoded, Ids, Vectors
from runtimes.auto import AUTO, choose
from runtimes.bundle_files import MANIFEST_FILE
from runtimes.choices import AdapterMode, GraphKind, HeadName, OutputType, Unknown
from runtimes.errors import InputError, shown
from runtimes.executors.base import Runtime, RuntimeBase, while_open
from runtimes.executors.vnni import warn_without_vnni
from runtimes.index.guard import Guard
from runtimes.index.offer import Offer
from runtimes.manifest import Manifest, read_manifest, unreplaced
from runtimes.open import Executor, open_runtime
from runtimes.outputs import converter, truncate
from runtimes.schemes import SCHEMES
from runtimes.tensors import SENTENCE_EMBEDDING, TASK_ID
from runtimes.text.batching import schedule
from runtimes.text.chunks import (
    OVERLAP,
    ChunkVectors,
    Cut,
    Span,
    WindowCall,
    choose_spans,
    plan_windows,
)
from runtimes.text.held import held_document, held_rows, require_whole
from runtimes.text.tokenizer_file import load_tokenizer
from runtimes.text.tokens import MAX_BYTES, TextTokenizer
from runtimes.text.vocabulary import refusal

if TYPE_CHECKING:
    from typing_extensions import Self

_SLOW_TOKENS = 20_000  # fewer take no time worth a progress bar


class Embedder(RuntimeBase):
    """Embeds texts with one bundle.

    One that was made by :meth:`load` can be pickled and copied: the other side loads the bundle
    again from its folder. Threads may share it. A forked process must load its own
    (else :class:`AdaptrtError`), or be started by ``spawn``; it can use one of ONNX Runtime with
    ``threads=1`` that nobody was inside.

    >>> Embedder.load("build/sample/classification-fp16").encode(["Guten Tag"]).shape
    (1, 256)
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: TextTokenizer,
        runtime: Runtime,
        folder: Path | None = None,
        adapter: Path | None = None,
        full: Embedder | None = None,
    ) -> None:
        """``runtime`` gives one vector per text, as :func:`runtimes.open.open_runtime` makes it.

        ``adapter`` is the file in its slot; ``full`` embeds what holds tokens that the bundle does
        not.
        """
        self.manifest, self.tokenizer, self.runtime = manifest, tokenizer, runtime
        self._folder, self.adapter_file, self._full = folder, adapter, full
        self.guard: Guard | None = None  # of the index that its vectors are for
        self.sent_on = 0  # texts, and windows of documents, that the full bundle embedded

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        runtime: str = AUTO,
        device: str | None = None,
        threads: int | None = None,
        adapter: str | Path | None = None,
        max_bytes: int = MAX_BYTES,
        spinning: bool = True,
        unknown: str | None = None,
        fallback: str | Path | None = None,
        index: str | Path | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: its folder.
            runtime: the executor, never replaced by another: ``onnxruntime`` runs the bundle's CPU
                graph (half-precision weights, FP32 arithmetic), ``openvino`` that of a bundle built
                for OpenVINO, ``onnxruntime_cuda`` its graph for NVIDIA GPUs, ``tensorrt_rtx`` and
                ``tensorrt`` its engine for the GPU present.
                ``auto`` is what ``adaptrt tune`` chose for this bundle on this machine, or else
                what runs it on a CPU (:mod:`runtimes.auto`). ``embedder.runtime.name`` says which
                it is.
            device: ``cpu``, ``cuda`` (the first GPU) or ``cuda:1`` (the second); refused where the
                executor runs elsewhere. None is the executor's own.
            threads: of an executor on a CPU; None is what was tuned, else one per core.
            adapter: an ``.onnx_adapter`` file for a bundle with a slot.
            max_bytes: a text of more bytes of UTF-8 is refused; tokenising 1 MB takes up to 1.1 s
                and 360 MB.
            spinning: whether ONNX Runtime's threads wait for the next call at full speed, which
                starts it sooner and takes the cores from whatever else runs in between.
            unknown: of a bundle that holds some of the tokens (``VOCABULARY``), what becomes of a
                text with others: ``error`` refuses it, ``fallback`` sends it to the bundle of that
                name, ``replace`` segments it anew into the tokens there are, with a
                ``VocabularyWarning``. None is what the bundle was built with.
            fallback: a bundle of the same model, tasks and dimensions that holds every token;
                ``embedder.sent_on`` counts what it embedded.
            index: what its vectors are for: a folder of Parquet files that ``adaptrt embed`` wrote,
                or a JSON file of canaries (:mod:`runtimes.index.read`). Sixteen texts are embedded
                and compared with those of the index; calls whose vectors would be of another kind
                are refused from then on.

        Raises:
            InputError: the bundle is incomplete or has nothing for the executor, or the adapter
                was made for another model.
            IndexMismatchError: the bundle's vectors do not belong to the index.
            MissingError: the GPU, a library or an engine for this GPU is missing.
        """
        folder = check_path("bundle", bundle)
        file = None if adapter is None else check_path("adapter", adapter)
        place = None if index is None else check_path("index", index)
        if threads is not None:
            check_whole("threads", threads, 1)
        check_whole("max_bytes", max_bytes, 1)
        policy = None if unknown is None else Unknown.parse("unknown", unknown)
        whole = None if fallback is None else check_path("fallback", fallback)
        check_flag("spinning", spinning)

        def opened() -> tuple[Manifest, TextTokenizer, Runtime]:
            manifest = read_manifest(folder)
            tokenizer = load_tokenizer(folder, manifest, max_bytes, policy)  # first: no GPU memory
            require_whole(whole, manifest, tokenizer.kept)
            chosen = choose(folder, manifest, runtime, device=device, threads=threads, adapter=file)
            _warn_of_slow_int8(manifest, chosen.executor)
            executing = open_runtime(
                folder,
                manifest,
                chosen.executor,
                device=device,
                threads=chosen.threads,
                adapter=file,
                spinning=spinning,
            )
            return manifest, tokenizer, executing

        manifest, tokenizer, executing = unreplaced(folder, opened, lambda made: made[2].close())
        try:
            full = None if whole is None else cls.load(whole, threads=threads, spinning=spinning)
        except BaseException:
            executing.close()
            raise
        embedder = cls(manifest, tokenizer, executing, folder, file, full)
        embedder._reload = partial(
            cls.load,
            folder.absolute(),
            runtime=runtime,
            device=device,
            threads=threads,
            adapter=file and file.absolute(),
            max_bytes=max_bytes,
            spinning=spinning,
            unknown=unknown,
            fallback=whole and whole.absolute(),
            index=place and place.absolute(),
        )
        if place is not None:
            embedder._guard(folder, place)
        return embedder

    def _guard(self, folder: Path, index: Path) -> None:
        """Compare with the index, or close."""
        try:
            self.guard = Guard.of(Offer.of_embedder(self, f"bundle {folder}"), index)
        except BaseException:
            self.close()
            raise

    @property
    def dimensions(self) -> tuple[int, ...]:
        """The lengths a vector can be cut to; the last is the full length."""
        return self.manifest.dimensions

    @while_open
    def encode(
        self,
        texts: Iterable[str],
        *,
        task: str | Iterable[str] | None = None,
        dimensions: int | None = None,
        output: str = OutputType.FLOAT32,
        prefix: bool = True,
        strict: bool = False,
        progress: bool = False,
    ) -> Encoded:
        """One unit vector per text, FP32 ``[n, dimensions]``, in the order given.

        How texts are grouped into calls (:mod:`runtimes.text.batching`) does not show in the
        vectors.

        Args:
            texts: any iterable of str. An empty text, one that holds NUL and one of more than
                ``max_bytes`` are refused.
            task: one name for all texts or one per text. A switchable bundle needs it (``base`` is
                the model without an adapter); a merged bundle knows its own and refuses others.
            dimensions: cuts (Matryoshka) and normalises again; None is the full length.
            output: ``float32``; ``int8`` and ``uint8``, scaled by the range that the bundle keeps
                for each task, beyond which values saturate; ``binary`` (int8) and ``ubinary``
                (uint8): a bit per value, eight to a byte, set where it is above 0.
            prefix: puts the task's instruction before each text, as the model was trained.
            strict: refuses a text that is longer than the bundle takes, which otherwise is
                truncated with a ``TruncationWarning``.
            progress: a bar on a terminal when there is much to do.

        Raises:
            InputError: a text, task, length or output that the bundle does not take; nothing was
                embedded.
            AdaptrtError: the executor failed, or the embedder is closed.
        """
        listed = list_texts(texts)
        width = self._width(dimensions)
        for name, flag in (("prefix", prefix), ("strict", strict), ("progress", progress)):
            check_flag(name, flag)
        tasks = self._tasks(task, len(listed))
        if self.guard is not None:
            self.guard.check(tasks, width, prefix=prefix, output=output)
        convert = converter(output, width, tasks, self.manifest.output_ranges)
        prefixes = [self.manifest.prefixes[t] if prefix else "" for t in tasks]
        rows = self.tokenizer.encode(listed, prefixes, strict=strict)
        rows = held_rows(self.tokenizer, rows, listed, prefixes, strict=strict)
        vectors = np.empty((len(rows), self.dimensions[-1]), np.float32)
        lengths = [len(row) for row in rows]
        batches = schedule(lengths, self.manifest.max_batch, self.runtime.budget)
        for batch in _with_progress(batches, lengths) if progress else batches:
            vectors[batch] = self.run_rows([rows[i] for i in batch], [tasks[i] for i in batch])
        return convert(truncate(vectors, width))

    @while_open
    def run_rows(self, rows: Sequence[Ids], tasks: Sequence[str]) -> Vectors:
        """One call of the executor: unit vectors of full length, FP32 ``[n, hidden]``.

        ``rows`` are token ids as the tokenizer gives them, as many as one call takes, each with a
        task that the bundle has. Nothing else is checked: this is what :meth:`encode` does with
        each of its batches, for programs that make the batches themselves (:mod:`runtimes.api`).
        Rows with tokens that the bundle does not hold go to the fallback; :class:`InputError`
        where there is none.
        """
        kept = self.tokenizer.kept
        if kept is not None and (away := kept.uncovered(rows)):
            return self._run_apart(rows, tasks, away)
        inputs: dict[str, Ids] = dict(self.tokenizer.pad(rows).inputs())
        vectors: Vectors = self.runtime.run({**inputs, **self._task_ids(tasks)})[
            SENTENCE_EMBEDDING.name
        ]
        return vectors

    @while_open
    def run_window(self, window: WindowCall, task: str) -> Vectors:
        """One call for late chunking: unit vectors of full length of one window's chunks.

        The bundle must have a chunk head; FP32 ``[chunks, hidden]``.
        """
        kept = self.tokenizer.kept
        if kept is not None and kept.uncovered([window.ids]):
            self.sent_on += 1
            return self._fallback("document", window.ids).run_window(window, task)
        inputs = dict(self.tokenizer.pad([window.ids]).inputs())
        vectors: Vectors = self.runtime.run(
            {**inputs, **self._task_ids([task]), "chunk_weights": window.weights}
        )["chunk_embedding"][0]
        return vectors

    @while_open
    def encode_chunks(
        self,
        document: str,
        chunks: Iterable[Span] | None = None,
        *,
        chunk_tokens: int | None = None,
        sentences: int | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        output: str = OutputType.FLOAT32,
        prefix: bool = True,
        overlap: int = OVERLAP,
    ) -> ChunkVectors:
        """Late chunking: embed the document once and mean-pool each span of it.

        Needs a bundle built with ``HEAD=chunks``, and exactly one of ``chunks``, ``chunk_tokens``
        and ``sentences``.

        Args:
            document: one text. One that is longer than the bundle takes is embedded in windows;
                the result says which chunk was pooled in which.
            chunks: (start, end) of each chunk in characters.
            chunk_tokens: tokens per chunk.
            sentences: sentences per chunk.
            task: as for :meth:`encode`, one name.
            dimensions: as for :meth:`encode`.
            output: as for :meth:`encode`.
            prefix: as for :meth:`encode`.
            overlap: tokens of context before a window's first chunk.

        Raises:
            InputError: chunks outside the document or without text, or a bundle without the head.
            AdaptrtError: the executor failed, or the embedder is closed.
        """
        if self.manifest.head is not HeadName.CHUNKS:
            raise InputError(
                "late chunking: this bundle gives one vector per text; build one with HEAD=chunks"
            )
        width = self._width(dimensions)
        cut = Cut.parse(chunks, chunk_tokens, sentences)
        check_whole("overlap", overlap, 0)
        check_flag("prefix", prefix)
        (name,) = self._tasks(task, 1)
        if self.guard is not None:
            self.guard.check((name,), width, prefix=prefix, output=output)
        convert = converter(output, width, (name,), self.manifest.output_ranges)
        text = held_document(
            self.tokenizer, document, self.manifest.prefixes[name] if prefix else ""
        )
        plan = plan_windows(text, choose_spans(text, cut), self.tokenizer.max_tokens, overlap)
        chunked = plan.gather([self.run_window(window, name) for window in plan.calls])
        return replace(chunked, vectors=convert(truncate(chunked.vectors, width)))

    def _free(self) -> None:
        self.runtime.close()
        if self._full is not None:
            self._full.close()

    def _fallback(self, where: str, ids: Ids) -> Embedder:
        if self._full is None:
            raise InputError(refusal(self.tokenizer, where, ids))
        return self._full

    def _run_apart(self, rows: Sequence[Ids], tasks: Sequence[str], away: Sequence[int]) -> Vectors:
        """The rows at ``away`` by the fallback, the others here."""
        full = self._fallback(f"text {away[0]}", rows[away[0]])
        vectors = np.empty((len(rows), self.dimensions[-1]), np.float32)
        apart = set(away)
        groups = [(self, [i for i in range(len(rows)) if i not in apart])]
        batches = schedule(
            [len(rows[i]) for i in away], full.manifest.max_batch, full.runtime.budget
        )
        groups += [(full, [away[i] for i in batch]) for batch in batches]
        for embedder, chosen in groups:
            if chosen:
                vectors[chosen] = embedder.run_rows(
                    [rows[i] for i in chosen], [tasks[i] for i in chosen]
                )
        self.sent_on += len(away)
        return vectors

    @property
    def _switchable(self) -> bool:
        return self.manifest.adapter is AdapterMode.SWITCHABLE

    def _task_ids(self, tasks: Sequence[str]) -> dict[str, Ids]:
        """The input that says each row's task; none where the graph takes none."""
        if not self._switchable:
            return {}
        numbers = [
            -1 if t not in self.manifest.tasks else self.manifest.tasks.index(t) for t in tasks
        ]
        return {TASK_ID.name: np.array(numbers, np.int64)}

    def _tasks(self, task: str | Iterable[str] | None, count: int) -> list[str]:
        known = tuple(self.manifest.prefixes)
        if task is None:
            if self._switchable:
                raise InputError(f"task: none given, expected one of {', '.join(known)}")
            task = self.manifest.task
        tasks = list_tasks(task, count) or []
        for name in tasks:
            if name not in known:
                raise InputError(f"task: got {shown(name)}, {self._where(name, known)}")
        return tasks

    def _where(self, task: str, known: Sequence[str]) -> str:
        if self._switchable:
            return f"expected one of {', '.join(known)}"
        own = self.manifest.task
        if self._folder is not None and self._folder.name.startswith(own):  # else named by NAME
            sibling = self._folder.with_name(task + self._folder.name.removeprefix(own))
            if (sibling / MANIFEST_FILE).is_file():
                return f"this bundle has {own}; load {sibling}"
        return f"this bundle has {own}; build one with `make engine TASK={task}`"

    def _width(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dimensions[-1]
        if not is_whole(dimensions) or dimensions not in self.dimensions:
            known = ", ".join(map(str, self.dimensions))
            raise InputError(f"dimensions: got {shown(dimensions)}, expected one of {known}")
        return dimensions


def _warn_of_slow_int8(manifest: Manifest, executor: Executor) -> None:
    """Where INT8's CPU graph is about to run on a CPU without its instructions."""
    on_cpu = executor.graph is GraphKind.ONNXRUNTIME
    if on_cpu and SCHEMES[manifest.precision].integer_products:
        warn_without_vnni()


def _with_progress(batches: Iterable[list[int]], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The batches, and a bar of tokens on standard error; silent for little work or no terminal."""
    from tqdm import tqdm

    total = sum(lengths)
    quiet = True if total < _SLOW_TOKENS else None  # None: off where there is no terminal
    with tqdm(total=total, unit="token", unit_scale=True, disable=quiet, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(sum(lengths[i] for i in batch))
