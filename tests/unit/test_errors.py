"""What a message shows of a value that came from outside."""

from __future__ import annotations

import pytest

from runtimes.errors import one_line, shown


@pytest.mark.parametrize(
    "text",
    ["a\nerror: forged", "a\rb", "\x1b[31mred", "left\u202eright", "\ud800", "a\u2028b", "\x00"],
)
def test_what_could_forge_output_is_escaped(text: str) -> None:
    assert one_line(text).isprintable()
    assert shown(text).isprintable()


def test_readable_text_stays() -> None:
    assert one_line("größer 東京 'x'") == "größer 東京 'x'"
    assert shown("größer") == "'größer'"


def test_long_values_are_shortened() -> None:
    text = shown("x" * 10_000)
    assert len(text) < 150
    assert text.endswith("(10002 characters)")


def test_numbers_too_long_to_print_are_shown() -> None:
    assert shown(10**5000).isprintable()
