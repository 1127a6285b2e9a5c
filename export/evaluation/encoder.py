"""A bundle, or the checkpoint itself, as mteb's ``EncoderProtocol``."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from export.console.progress import bars_shown, log
from export.evaluation.task_map import adapter_for
from runtimes.arrays import Encoded, Vectors
from runtimes.choices import OutputType
from runtimes.embedder import Embedder
from runtimes.text.tokens import TruncationWarning
from runtimes.text.vocabulary import VocabularyWarning

Place = TypeVar("Place", bound=Hashable)
_OPEN = 2  # a retrieval task goes to and fro between its two adapters; each may be 2 GB


class Embedders:
    """The embedder of each task, opened when a text needs it; of several the latest stay open."""

    def __init__(self, place: Callable[[str], Place], load: Callable[[Place], Embedder]) -> None:
        """``place`` is what a task's embedder is opened by; tasks that share one share it."""
        self._place, self._load = place, load
        self._open: OrderedDict[Hashable, Embedder] = OrderedDict()

    def for_task(self, task: str) -> Embedder:
        """Open."""
        place = self._place(task)
        if place not in self._open:
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[place] = self._load(place)
        self._open.move_to_end(place)
        return self._open[place]

    def close(self) -> None:
        """Free what is open."""
        while self._open:
            self._open.popitem()[1].close()


class MtebEncoder:
    """What mteb calls: a batch of texts in, a vector each out, by the adapter that the task needs.

    mteb hands a corpus's titles in front of their texts. A text without any character, which
    an embedder refuses, is embedded as a space.
    """

    def __init__(
        self,
        embedders: Embedders,
        *,
        name: str,
        revision: str,
        dimensions: int | None = None,
        prefix: bool = True,
        output: OutputType = OutputType.FLOAT32,
    ) -> None:
        """``name`` and ``revision`` are what result files are kept under: all that shapes a score
        is in them.
        """
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        self._embedders, self._output = embedders, output
        self._dimensions, self._prefix = dimensions, prefix
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": revision,
                "similarity_fn_name": ScoringFunction.COSINE,
                "embed_dim": dimensions,
                "use_instructions": prefix,
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Vectors:
        """FP32 ``[n, dimensions]``; mteb's batch size and progress bar are for other encoders.

        What was stored in a shorter type comes as the numbers that it stands for.
        """
        texts = [_embeddable(text) for batch in inputs for text in batch["text"]]
        task = adapter_for(task_metadata.type, None if prompt_type is None else prompt_type.value)
        embedder = self._embedders.for_task(task)
        with _cuts_counted(task_metadata.name):
            encoded = embedder.encode(
                texts,
                task=task,
                dimensions=self._dimensions,
                prefix=self._prefix,
                output=self._output,
                progress=bars_shown(),
            )
        return as_numbers(encoded, self._output)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines ``[n, m]``, as mteb computes them."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines ``[n]`` of rows with rows."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def as_numbers(encoded: Encoded, output: OutputType) -> Vectors:
    """FP32 numbers whose cosines are those of the encoded vectors: integers less their offset, and
    signs of packed bits.
    """
    if output in (OutputType.BINARY, OutputType.UBINARY):
        offset = 128 if output is OutputType.BINARY else 0
        bits = np.unpackbits((encoded.astype(np.int16) + offset).astype(np.uint8), axis=1)
        return bits.astype(np.float32) * 2 - 1
    return encoded.astype(np.float32) - (128 if output is OutputType.UINT8 else 0)


@contextmanager
def _cuts_counted(task: str) -> Iterator[None]:
    """One line for all texts that are longer than a bundle takes, in place of a warning each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        yield
    for anew in (w for w in caught if issubclass(w.category, VocabularyWarning)):
        log.warning("warning: %s: %s", task, anew.message)
    if cut := sum(issubclass(warning.category, TruncationWarning) for warning in caught):
        log.info("  %s: %d texts are longer than the bundle takes and were cut", task, cut)


def _embeddable(text: str) -> str:
    return text.replace("\0", "") or " "
