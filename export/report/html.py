"""HTML and SVG elements as a tree, so that text is escaped by the library and never by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

Element = ElementTree.Element
Content = Element | str
Value = str | int | float


def element(tag: str, *content: Content, **attributes: Value) -> Element:
    """``element("p", "text", class_="note")``; numbers of SVG attributes keep two decimals.

    ``_`` at an attribute's end is dropped, any other becomes ``-``.
    """
    created = Element(tag, {_attribute(k): _value(v) for k, v in attributes.items()})
    return extend(created, content)


def extend(parent: Element, content: Iterable[Content]) -> Element:
    """Append elements and text in order; the parent."""
    for part in content:
        if isinstance(part, str):
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + part
            else:
                parent.text = (parent.text or "") + part
        else:
            parent.append(part)
    return parent


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], numbers: int = 0) -> Element:
    """A table whose last ``numbers`` columns are aligned on the right."""
    first = len(head) - numbers

    def cells(tag: str, row: Sequence[Content]) -> Element:
        return element(
            "tr",
            *(
                element(tag, cell, **({"class_": "number"} if index >= first else {}))
                for index, cell in enumerate(row)
            ),
        )

    body = element("tbody", *(cells("td", row) for row in rows))
    return element(
        "div", element("table", element("thead", cells("th", head)), body), class_="table"
    )


def document(title: str, style: str, *content: Content) -> str:
    """A whole page in UTF-8 that loads nothing from anywhere."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", style),
    )
    root = element("html", head, element("body", element("main", *content)), lang="en")
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, "unicode", method="html") + "\n"


def _attribute(name: str) -> str:
    return name[:-1] if name.endswith("_") else name.replace("_", "-")


def _value(value: Value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
