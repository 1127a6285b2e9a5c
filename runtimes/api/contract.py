"""``POST /v1/embeddings``: what is asked and what is answered, as types.

The schema that ``/openapi.json`` shows is made of these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from runtimes.api import problems
from runtimes.api.problems import ApiError
from runtimes.arguments import is_whole
from runtimes.choices import OutputType
from runtimes.errors import shown

INT32 = 2**31 - 1


class Encoding(NamedTuple):
    """How a vector is written: ``output`` says of which numbers, ``base64`` as one string."""

    output: OutputType
    base64: bool = False


ENCODINGS: Mapping[str, Encoding] = {
    "float": Encoding(OutputType.FLOAT32),
    "base64": Encoding(OutputType.FLOAT32, base64=True),
    "binary": Encoding(OutputType.BINARY),
    "ubinary": Encoding(OutputType.UBINARY),
    "int8": Encoding(OutputType.INT8),
    "uint8": Encoding(OutputType.UINT8),
}
# The three names that clients give the same field.
ENCODING_FIELDS = ("encoding_format", "embedding_type", "encoding_type")


class Tolerated(NamedTuple):
    """A field that is not ours but that a client sends: the values that change nothing."""

    sent_by: str
    values: tuple[Any, ...]


TOLERATED: Mapping[str, Tolerated] = {
    "return_multivector": Tolerated("the vendor's clients for later models", (False, None)),
    "embedding_types": Tolerated("clients with one type for each list", (None,)),
    "input_type": Tolerated("clients of several vendors, unset", (None,)),
    "prompt": Tolerated("clients of several vendors, unset", (None,)),
    "priority": Tolerated("vLLM's clients", (0, None)),
}

_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_ITEM = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}
_INPUT_SCHEMA = {
    "oneOf": [
        _TEXT,
        {"type": "array", "items": {"oneOf": [_TEXT, _ITEM]}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
EncodingName = Annotated[
    str | list[str] | None,
    Meta(description="How vectors are written. A list holds one name.", examples=[*ENCODINGS]),
]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/embeddings``."""

    input: Annotated[
        Any,
        Meta(
            description="A text, texts, objects with `text`, or ids of the model's own tokenizer.",
            extra_json_schema=_INPUT_SCHEMA,
        ),
    ]
    model: Annotated[
        str | None, Meta(description="A name of /v1/models; may be left out where there is one.")
    ] = None
    task: Annotated[
        str | None,
        Meta(description="What the vectors are for. Without one: the server's default, `base`."),
    ] = None
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=INT32)] | None,
        Meta(description="The first so many values, scaled to length 1 again."),
    ] = None
    late_chunking: Annotated[
        bool | None,
        Meta(description="`input` is one document, a vector for each item in its context."),
    ] = None
    window_overlap: Annotated[
        Annotated[int, Meta(ge=0, le=INT32)] | None,
        Meta(
            description="Of late chunking: a document that is too long is embedded in windows that "
            "overlap by so many tokens. Without it such a document is refused.",
        ),
    ] = None
    truncate: Annotated[
        bool | None, Meta(description="Cut texts that are too long, instead of refusing them.")
    ] = None
    normalized: Annotated[
        bool | None, Meta(description="false: shortened vectors are not scaled to length 1.")
    ] = None
    encoding_format: EncodingName = None
    embedding_type: EncodingName = None
    encoding_type: EncodingName = None
    return_tokens: Annotated[
        bool | None, Meta(description="Also give each item's tokens, and its span in a document.")
    ] = None
    user: Annotated[str | None, Meta(description="Accepted, not used, not logged.")] = None

    def encoding(self) -> Encoding:
        """What the three fields ask for; raises :class:`ApiError` where they disagree."""
        found: dict[str, str] = {}
        for field in ENCODING_FIELDS:
            value = getattr(self, field)
            if isinstance(value, list):
                if len(value) != 1:
                    raise _bad(field, f"got {len(value)} names, expected one")
                value = value[0]
            if value is not None:
                found[field] = value
        for field, value in found.items():
            if value not in ENCODINGS:
                raise _bad(field, f"got {shown(value)}, expected one of {', '.join(ENCODINGS)}")
        if len(set(found.values())) > 1:
            first, second = list(found)[:2]
            raise _bad(second, f"got {found[second]}, but {first} is {found[first]}; send one")
        return ENCODINGS[next(iter(found.values()), "float")]


class Embedding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One vector; ``tokens`` and ``span`` where ``return_tokens`` asked for them."""

    object: str
    index: int
    embedding: list[float | int] | str
    tokens: int | None = None
    span: tuple[int, int] | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that were embedded, special ones and the task's instruction included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: a vector for each item of ``input``, in its order.

    ``truncated`` are the indices of texts whose end was cut off.
    """

    object: str
    model: str
    data: list[Embedding]
    usage: Usage
    warnings: list[str] = []
    truncated: list[int] = []


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One model; ``dimensions`` are the lengths it was trained for."""

    id: str
    object: str
    created: int
    owned_by: str
    tasks: list[str]
    dimensions: list[int]
    max_tokens: int
    late_chunking: bool


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/models``."""

    object: str
    data: list[ModelCard]


def parse(body: bytes | bytearray) -> EmbeddingRequest:
    """The request that a body holds; raises :class:`ApiError` for anything else."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(problems.BAD_JSON, f"not valid JSON: {_words(error)}") from error
    if not isinstance(raw, dict):
        raise ApiError(problems.BAD_JSON, f"got a JSON {_kind(raw)}, expected an object")
    for field in raw.keys() - _FIELDS:
        tolerated = TOLERATED.get(field)
        if tolerated is None:
            raise ApiError(
                problems.UNKNOWN_FIELD,
                f"{shown(field)}: no such field; there are {', '.join(sorted(_FIELDS))}",
                param=field[:64],
            )
        if raw.pop(field) not in tolerated.values:
            raise _bad(field, "this model has no such thing; leave it out")
    try:
        request = msgspec.convert(raw, EmbeddingRequest)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        field = place.rstrip("`").partition("[")[0] or None
        raise ApiError(
            problems.BAD_VALUE, f"{field or 'request'}: {message}", param=field
        ) from error
    return request


def inputs_of(value: Any) -> list[str] | list[list[int]]:
    """``input`` as texts, or as rows of token ids; raises :class:`ApiError` for anything else."""
    if isinstance(value, str | dict):
        return [_text_of(value, "input")]
    if not isinstance(value, list):
        raise _bad("input", f"got {_kind(value)}, expected a text, texts or token ids")
    if not value:
        raise _bad("input", "got an empty list, expected at least one text")
    if is_whole(value[0]):
        return [_ids_of(value, "input")]
    if isinstance(value[0], list):
        return [_ids_of(item, f"input[{i}]") for i, item in enumerate(value)]
    return [_text_of(item, f"input[{i}]") for i, item in enumerate(value)]


def _text_of(item: Any, where: str) -> str:
    if isinstance(item, dict):
        if item.keys() != {"text"}:
            names = shown(sorted(item))
            raise _bad("input", f"{where}: got an object with {names}, expected text alone")
        item = item["text"]
    if not isinstance(item, str):
        raise _bad("input", f"{where}: got {_kind(item)}, expected a text")
    return item


def _ids_of(item: Any, where: str) -> list[int]:
    if not isinstance(item, list) or not item:
        got = "an empty list" if item == [] else _kind(item)
        raise _bad("input", f"{where}: got {got}, expected token ids, like the first")
    for number in item:
        if not is_whole(number) or not 0 <= number <= INT32:
            raise _bad("input", f"{where}: got {shown(number)}, expected a token id")
    return item


def _bad(field: str, message: str) -> ApiError:
    text = message if message.startswith(field) else f"{field}: {message}"
    return ApiError(problems.BAD_VALUE, text, param=field)


_FIELDS = frozenset(EmbeddingRequest.__struct_fields__)
_KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "number")


def _words(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return shown(str(error), 200).strip("'\"")
