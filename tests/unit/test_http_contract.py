"""What ``POST /v1/embeddings`` takes: every field, and what is said of everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtimes.api.contract import ENCODINGS, TOLERATED, EmbeddingRequest, inputs_of, parse
from runtimes.api.problems import KINDS, ApiError, as_problem
from runtimes.choices import OutputType
from runtimes.errors import AdaptrtError, InputError


def request(**fields: Any) -> EmbeddingRequest:
    return parse(json.dumps({"input": "x"} | fields).encode())


def refused(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as raised:
        parse(body)
    return raised.value


def test_every_field_is_read() -> None:
    fields = {
        "model": "m",
        "task": "separation",
        "dimensions": 64,
        "late_chunking": True,
        "window_overlap": 12,
        "truncate": True,
        "normalized": False,
        "encoding_format": "base64",
        "embedding_type": ["base64"],
        "encoding_type": "base64",
        "return_tokens": True,
        "user": "somebody",
    }
    read = request(**fields)
    assert fields.keys() == set(EmbeddingRequest.__struct_fields__) - {"input"}
    assert all(getattr(read, name) == value for name, value in fields.items())


def test_null_is_as_if_it_was_left_out() -> None:
    names = [name for name in EmbeddingRequest.__struct_fields__ if name != "input"]
    assert request(**dict.fromkeys(names)) == request()


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_json", "not valid JSON"),
        (b"{", "invalid_json", "not valid JSON"),
        (b'{"input": NaN}', "invalid_json", "not valid JSON"),
        (b'{"input": "\xff"}', "invalid_json", "not UTF-8 at byte 0"),
        (b'{"input": "\\ud800 some words"}', "invalid_json", "surrogate"),
        (b'{"input": "x"} x', "invalid_json", "trailing"),
        (b'{"input":' + b"[" * 50_000, "invalid_json", "nested too deeply"),
        (b'{"input": "x", "dimensions": 1e999}', "invalid_json", "out of range"),
        (b'{"input": "x", "dimensions": ' + b"9" * 5000 + b"}", "invalid_json", "out of range"),
        (b'["x"]', "invalid_json", "got a JSON array, expected an object"),
        (b"null", "invalid_json", "got a JSON null"),
        (b'{"input": "x", "dimension": 3}', "unknown_field", "'dimension': no such field; there"),
        (b'{"input": "x", "return_multivector": true}', "invalid_value", "no such thing"),
        (b"{}", "invalid_value", "missing required field `input`"),
        (b'{"input": "x", "model": 1}', "invalid_value", "model: Expected `str | null`, got `int`"),
        (b'{"input": "x", "dimensions": 0}', "invalid_value", "dimensions: Expected `int` >= 1"),
        (b'{"input": "x", "dimensions": 64.0}', "invalid_value", "dimensions: Expected"),
        (b'{"input": "x", "dimensions": true}', "invalid_value", "dimensions: Expected"),
        (b'{"input": "x", "dimensions": 3000000000}', "invalid_value", "<= 2147483647"),
        (b'{"input": "x", "truncate": "yes"}', "invalid_value", "truncate: Expected"),
    ],
)
def test_what_is_no_request_is_said_in_words(body: bytes, code: str, words: str) -> None:
    error = refused(body)
    assert (error.kind.status, error.kind.code) == (400, code)
    assert words in error.message
    assert len(error.message) < 500


def test_the_field_at_fault_is_named() -> None:
    assert refused(b'{"input": "x", "model": 1}').param == "model"
    assert refused(b'{"input": "x", "embedding_type": [1]}').param == "embedding_type"
    assert refused(b'{"input": "x", "' + b"z" * 999 + b'": 1}').param == "z" * 64


@pytest.mark.parametrize(("name", "tolerated"), TOLERATED.items())
def test_what_clients_send_without_meaning_is_let_through(name: str, tolerated: Any) -> None:
    for value in tolerated.values:
        assert request(**{name: value}) == request()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a text", ["a text"]),
        (["a", "b"], ["a", "b"]),
        ([{"text": "a"}, "b"], ["a", "b"]),
        ({"text": "a"}, ["a"]),
        ([3, 4], [[3, 4]]),
        ([[3, 4], [5]], [[3, 4], [5]]),
    ],
)
def test_forms_of_input(value: Any, expected: Any) -> None:
    assert inputs_of(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got null"),
        (7, "got number"),
        (True, "got boolean"),
        ([], "got an empty list, expected at least one text"),
        ([[]], "input[0]: got an empty list, expected token ids"),
        ([[1], "a"], "input[1]: got string, expected token ids"),
        (["a", [1]], "input[1]: got array, expected a text"),
        (["a", None], "input[1]: got null, expected a text"),
        ([1, "a"], "got 'a', expected a token id"),
        ([1, True], "got True, expected a token id"),
        ([1, -1], "got -1, expected a token id"),
        ([1, 2**40], "expected a token id"),
        ([{"image": "x"}], "input[0]: got an object with ['image'], expected text alone"),
        ([{"text": "a", "image": "x"}], "expected text alone"),
        ([{"text": 1}], "input[0]: got number, expected a text"),
    ],
)
def test_what_is_no_input(value: Any, words: str) -> None:
    with pytest.raises(ApiError) as raised:
        inputs_of(value)
    assert words in raised.value.message
    assert (raised.value.param, raised.value.kind.status) == ("input", 400)


@pytest.mark.parametrize("field", ["encoding_format", "embedding_type", "encoding_type"])
def test_encodings_go_by_three_names(field: str) -> None:
    for name, encoding in ENCODINGS.items():
        assert request(**{field: name}).encoding() == encoding
        assert request(**{field: [name]}).encoding() == encoding
    assert request().encoding().output is OutputType.FLOAT32
    with pytest.raises(ApiError, match=f"{field}: got 'float16', expected one of float, base64"):
        request(**{field: "float16"}).encoding()
    with pytest.raises(ApiError, match=f"{field}: got 2 names, expected one"):
        request(**{field: ["float", "int8"]}).encoding()


def test_encodings_that_disagree_are_refused() -> None:
    assert request(encoding_format="int8", embedding_type="int8").encoding().output == "int8"
    with pytest.raises(ApiError, match="encoding_type: got int8, but encoding_format is float"):
        request(encoding_format="float", encoding_type="int8").encoding()


def test_problems_are_in_both_forms() -> None:
    problem = ApiError(KINDS[0], "words", param="input", retry_after=0.2)
    assert json.loads(problem.body()) == {
        "error": {
            "message": "words",
            "type": "invalid_request_error",
            "param": "input",
            "code": "invalid_json",
        },
        "detail": "words",
    }
    assert problem.headers() == {"retry-after": "1"}


def test_a_client_is_told_what_it_did_and_not_where_files_lie() -> None:
    assert as_problem(InputError("text 0: empty")).message == "text 0: empty"
    hidden = as_problem(AdaptrtError("/srv/models/x.onnx: ONNX Runtime failed"))
    assert hidden.kind.status == 500
    assert "/srv" not in hidden.message


def test_codes_are_distinct() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)
