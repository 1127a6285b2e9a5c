"""A request as work for the encoder: routed, tokenised and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from runtimes.api import problems
from runtimes.api.catalogue import Catalogue, Served
from runtimes.api.contract import EmbeddingRequest, Encoding, inputs_of
from runtimes.api.problems import ApiError, as_problem
from runtimes.api.settings import Settings
from runtimes.arrays import Encoded, Ids, Vectors
from runtimes.errors import InputError
from runtimes.outputs import OUTPUTS, converter, truncate
from runtimes.text.chunks import OVERLAP, Document, Span, WindowPlan, plan_windows
from runtimes.text.tokens import check_text, shorten
from runtimes.text.vocabulary import settle


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the encoder is to do for one request, and what its answer says besides vectors.

    ``rows`` are one text's token ids each; with ``plan`` the windows of late chunking take their
    place. ``texts`` are what was asked, for a server that tokenises itself; None for token ids.
    ``counts`` are the tokens of each item, ``spans`` its first token and the one after its last in
    the document.
    """

    served: Served
    task: str
    width: int
    encoding: Encoding
    rescale: bool
    rows: list[Ids]
    plan: WindowPlan | None = None
    texts: list[str] | None = None
    counts: list[int]
    spans: list[tuple[int, int]] | None = None
    tokens: int
    return_tokens: bool = False
    truncated: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def texts_count(self) -> int:
        """Vectors that the answer has."""
        return len(self.counts)

    def finish(self, vectors: Vectors) -> Encoded:
        """Full vectors ``[n, hidden]`` as those that were asked for."""
        cut = truncate(vectors, self.width) if self.rescale else vectors[:, : self.width]
        tasks = [self.task] * len(vectors)
        ranges = self.served.manifest.output_ranges
        return converter(self.encoding.output, self.width, tasks, ranges)(cut)


@dataclass(frozen=True, kw_only=True)
class Route:
    """What is known of a request before its texts are tokenised."""

    request: EmbeddingRequest
    served: Served
    task: str
    width: int
    encoding: Encoding
    late: bool
    rescale: bool
    inputs: list[str] | list[list[int]]
    warnings: list[str]

    @property
    def prefix(self) -> str:
        """The task's instruction."""
        return self.served.manifest.prefixes[self.task]


def route(request: EmbeddingRequest, catalogue: Catalogue, settings: Settings) -> Route:
    """Everything that can be refused without tokenising; raises :class:`ApiError`."""
    late = bool(request.late_chunking)
    if request.window_overlap is not None and not late:
        raise ApiError(
            problems.BAD_VALUE, "window_overlap: needs late_chunking", param="window_overlap"
        )
    if settings.triton is not None and request.window_overlap not in (None, OVERLAP):
        raise ApiError(
            problems.BAD_VALUE,
            f"window_overlap: the Triton server behind this one has {OVERLAP}",
            param="window_overlap",
        )
    served, task = catalogue.route(request.model, request.task, late=late)
    inputs = inputs_of(request.input)
    if len(inputs) > settings.max_texts:
        raise ApiError(
            problems.TOO_LARGE,
            f"input: {len(inputs)} texts in one request, expected at most {settings.max_texts}; "
            "send fewer at a time",
            param="input",
        )
    encoding, warnings = request.encoding(), []
    known = served.manifest.dimensions
    width = known[-1] if request.dimensions is None else request.dimensions
    if width > known[-1]:
        raise ApiError(
            problems.BAD_VALUE,
            f"dimensions: got {width}, expected 1 to {known[-1]}",
            param="dimensions",
        )
    if width not in known:
        listed = ", ".join(map(str, known))
        warnings.append(f"dimensions: the model was not trained for {width}, only for {listed}")
    rescale = request.normalized is not False
    if not rescale and OUTPUTS[encoding.output].ranged:
        raise ApiError(
            problems.BAD_VALUE,
            f"normalized: {encoding.output} is made of vectors of length 1; leave it out",
            param="normalized",
        )
    try:  # before anything is embedded: has the bundle what this type needs?
        converter(encoding.output, width, [task], served.manifest.output_ranges)
    except InputError as error:
        raise as_problem(error, "encoding_format") from error
    return Route(
        request=request,
        served=served,
        task=task,
        width=width,
        encoding=encoding,
        late=late,
        rescale=rescale,
        inputs=inputs,
        warnings=warnings,
    )


def prepare(found: Route, settings: Settings) -> Work:
    """Tokenises; takes as long as the texts are, so long ones belong into a thread.

    Raises :class:`ApiError` for a text that cannot be embedded, or that is too long.
    """
    try:
        work = _late(found) if found.late else _plain(found)
    except InputError as error:
        raise as_problem(error, "input") from error
    if work.tokens > settings.max_tokens:
        raise ApiError(
            problems.TOO_LARGE,
            f"input: {work.tokens} tokens in one request, expected at most "
            f"{settings.max_tokens}; send fewer texts at a time",
            param="input",
        )
    return work


def size_of(found: Route) -> int:
    """Characters or ids, to tell whether tokenising is worth a thread."""
    return sum(map(len, found.inputs))


def _plain(found: Route) -> Work:
    served, most = found.served, found.served.manifest.max_tokens
    texts = _texts(found)
    rows = _rows_of_texts(found, texts) if texts is not None else _rows_of_ids(found)
    truncated = [i for i, row in enumerate(rows) if len(row) > most]
    if truncated and not found.request.truncate:
        raise ApiError(
            problems.TOO_LONG,
            f"input[{truncated[0]}]: {len(rows[truncated[0]])} tokens, {served.model} takes "
            f"{most}; split the text, or send truncate=true to embed its beginning",
            param="input",
        )
    rows, more, cut = _held(found, [shorten(row, most) for row in rows], texts)
    if cut and not found.request.truncate:
        raise ApiError(
            problems.TOO_LONG,
            f"input[{cut[0]}]: {len(rows[cut[0]])} of the tokens that the bundle holds, "
            f"{served.model} takes {most}; split the text, or send truncate=true to embed its "
            "beginning",
            param="input",
        )
    rows = [shorten(row, most) for row in rows]
    truncated = sorted({*truncated, *cut})
    counts = [len(row) for row in rows]
    work = _work(found, rows=rows, counts=counts, tokens=sum(counts), texts=texts, cut=truncated)
    work.warnings.extend(more)
    if texts is None:  # ids of another tokenizer are numbers like any others
        work.warnings.append(f"input: read as token ids of {served.model}'s own tokenizer")
    return work


def _texts(found: Route) -> list[str] | None:
    """The texts, checked; None where token ids were sent."""
    texts = [item for item in found.inputs if isinstance(item, str)]
    if not texts:
        return None
    for index, text in enumerate(texts):
        check_text(text, f"input[{index}]", found.served.tokenizer.max_bytes)
    return texts


def _rows_of_texts(found: Route, texts: Sequence[str]) -> list[Ids]:
    return found.served.tokenizer.tokenize([found.prefix + text for text in texts])


def _rows_of_ids(found: Route) -> list[Ids]:
    """Ids of texts, to which the begin and end tokens and the task's instruction are added."""
    tokenizer = found.served.tokenizer
    # Of the words alone: with the space at its end the instruction would end in a token of its own.
    frame = tokenizer.tokenize([found.prefix.rstrip() or "a"])[0]
    begin, end = frame[0], frame[-1]
    head = frame[:-1] if found.prefix.strip() else frame[:1]
    rows = []
    for index, item in enumerate(found.inputs):
        ids = np.asarray(item, np.int64)
        if (greatest := int(ids.max())) >= tokenizer.vocab:
            raise InputError(
                f"input[{index}]: got the token id {greatest}, expected ids below "
                f"{tokenizer.vocab}, of this model's own tokenizer; send the text instead"
            )
        own = ids[int(ids[0] == begin) :]
        own = own[: len(own) - int(len(own) > 0 and own[-1] == end)]
        rows.append(np.concatenate([head, own, [end]]))
    return rows


def _held(
    found: Route, rows: Sequence[Ids], texts: Sequence[str] | None
) -> tuple[list[Ids], list[str], list[int]]:
    """Rows of tokens that the bundle holds, or the full one behind it.

    With what is to be said of it, and which of the rows are longer than the bundle takes now.
    """
    prefixed = None if texts is None else [found.prefix + text for text in texts]
    settled = settle(found.served.tokenizer, rows, prefixed, "input[{}]")
    warnings = [] if settled.warning is None else [settled.warning]
    if settled.sent_on:
        warnings.append(
            f"vocabulary: {len(settled.sent_on)} of {len(rows)} texts hold tokens that the bundle "
            "does not; embedded by a full one"
        )
    return settled.rows, warnings, list(settled.cut)


def _late(found: Route) -> Work:
    """``input`` joined by spaces as one document, each item a chunk of it."""
    texts = _texts(found)
    if texts is None:
        raise InputError("late_chunking: got token ids, expected texts")
    spans: list[Span] = []
    start = 0
    for text in texts:
        spans.append((start, start + len(text)))
        start += len(text) + 1
    document = Document(found.served.tokenizer, " ".join(texts), found.prefix)
    (held,), more, _ = _held(found, [document.ids], [document.text])
    if held is not document.ids:  # segmented anew
        document = Document(found.served.tokenizer.restricted, document.text, found.prefix)
    most, overlap = found.served.manifest.max_tokens, found.request.window_overlap
    if len(document.ids) > most and overlap is None:
        raise ApiError(
            problems.TOO_LONG,
            f"input: {len(document.ids)} tokens in all, late chunking takes {most}; send less, or "
            "window_overlap=512 to embed the document in windows that overlap",
            param="input",
        )
    plan = plan_windows(document, spans, most, overlap or 0)
    members = [document.members(span) for span in spans]
    work = _work(
        found,
        rows=[],
        counts=[len(m) for m in members],
        tokens=sum(len(call.ids) for call in plan.calls),
        texts=texts,
        plan=plan,
        spans=[(int(m[0]), int(m[-1]) + 1) for m in members],
    )
    work.warnings.extend(more)
    if len(plan.calls) > 1 and len(document.ids) > most:
        work.warnings.append(
            f"late_chunking: {len(document.ids)} tokens were embedded in {len(plan.calls)} windows"
        )
    return work


def _work(
    found: Route,
    *,
    rows: list[Ids],
    counts: list[int],
    tokens: int,
    texts: list[str] | None,
    plan: WindowPlan | None = None,
    spans: list[tuple[int, int]] | None = None,
    cut: Sequence[int] = (),
) -> Work:
    return Work(
        served=found.served,
        task=found.task,
        width=found.width,
        encoding=found.encoding,
        rescale=found.rescale,
        rows=rows,
        plan=plan,
        texts=texts,
        counts=counts,
        spans=spans,
        tokens=tokens,
        return_tokens=bool(found.request.return_tokens),
        truncated=list(cut),
        warnings=list(found.warnings),
    )
