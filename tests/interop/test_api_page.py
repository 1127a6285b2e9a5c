"""The page at ``/`` in a headless Chromium: what it shows is what the API gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.interop.api_server import BundleServer, serving
from tests.interop.test_clients import needed
from tests.support import Array

expect.set_options(timeout=30_000)  # ms, of one wait: the machine may have other work
VIEWS = ("compare", "search", "chunks")
WIDE, PHONE = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
KEY = "0123456789abcdef0123456789abcdef"
# Rules of the WCAG to level AA, and those that axe holds for good practice.
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = needed(shutil.which("chromium"), "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium), args=["--no-sandbox", "--disable-quic"]
        )
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, address: str, *, viewport: dict[str, int] = WIDE, dark: bool = False
) -> Iterator[tuple[Page, list[str]]]:
    """A page that has run its example, and what went wrong in it: to be empty at the end."""
    wrong: list[str] = []
    scheme = "dark" if dark else "light"
    with browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: complain(message, wrong))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: elsewhere(request, address, wrong))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(address)
        yield page, wrong


def complain(message: ConsoleMessage, wrong: list[str]) -> None:
    if message.type in ("error", "warning"):
        wrong.append(message.text)


def elsewhere(request: Request, address: str, wrong: list[str]) -> None:
    if not request.url.startswith(address + "/"):
        wrong.append(f"asked {request.url}")


def done(page: Page, view: str = "compare") -> None:
    """Wait until a view shows an answer."""
    page.wait_for_selector(f"#results[data-done={view}]")
    page.wait_for_selector("body:not(.busy)")


def show(page: Page, view: str) -> None:
    page.click(f"#tab-{view}")
    done(page, view)


def vectors(answer: dict[str, Any]) -> Array:
    return np.array([item["embedding"] for item in answer["data"]])


def numbers(page: Page, selector: str) -> Array:
    """The cells of a table, in rows; a typographic minus is a minus."""
    cells: list[list[str]] = page.eval_on_selector_all(
        f"{selector} tbody tr", "rows => rows.map(r => [...r.cells].slice(1).map(c => c.innerText))"
    )
    return np.array([[float(cell.replace("−", "-")) for cell in row] for row in cells])


def lines(page: Page, field: str) -> list[str]:
    text: str = page.input_value(field)
    return text.splitlines()


def test_it_runs_its_example_and_asks_nobody_else(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, wrong):
        for view in VIEWS:
            show(page, view)
            assert page.locator("#error").is_hidden()
            assert "tokens" in page.inner_text("#status")
            assert "ms in the server" in page.inner_text("#status")
        assert wrong == []


def test_what_it_must_not_do_would_be_seen(browser: Browser, api: BundleServer) -> None:
    """Negative control: an inline script and another host are refused, and both are noticed."""
    with opened(browser, api.address) as (page, wrong):
        done(page)
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'),"
            "{textContent: 'window.ran = true'}))"
        )
        page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
        assert page.evaluate("window.ran") is None
        assert len([text for text in wrong if "Content Security Policy" in text]) >= 2


def test_the_matrix_is_of_the_apis_vectors(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        done(page)
        texts = lines(page, "#texts")
        found = vectors(api.embed(input=texts, task=page.input_value("#task")))
        assert np.abs(numbers(page, "#matrix") - found @ found.T).max() <= 0.005 + 1e-6
        heads = page.eval_on_selector_all(
            "#matrix tbody th .text", "cells => cells.map(c => c.innerText)"
        )
        assert heads == texts


def test_the_map_is_of_the_principal_components(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        done(page)
        found = vectors(api.embed(input=lines(page, "#texts"), task=page.input_value("#task")))
        left, sizes, _ = np.linalg.svd(found - found.mean(0), full_matrices=False)
        shown = page.eval_on_selector_all(
            "#map tbody tr",
            "rows => rows.map(r => [+r.cells[1].textContent, +r.cells[2].textContent])",
        )
        expected = (left * sizes)[:, :2]
        for axis in range(2):
            sides = [
                np.abs(np.array(shown)[:, axis] - sign * expected[:, axis]).max()
                for sign in (1, -1)
            ]
            assert min(sides) <= 0.005 + 1e-6
        shares = sizes**2 / (sizes**2).sum()
        assert f"{shares[0] * 100:.0f} %" in page.inner_text("#map-note")
        assert f"{shares[1] * 100:.0f} %" in page.inner_text("#map-note")
        assert page.locator("#map circle").count() == len(found)


def test_passages_are_ranked_by_the_apis_vectors(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        show(page, "search")
        passages, query = lines(page, "#passages"), page.input_value("#query")
        (question,) = vectors(api.embed(input=[query], task="retrieval.query"))
        scores = vectors(api.embed(input=passages, task="retrieval.passage")) @ question
        order = np.argsort(-scores)
        shown = page.locator("#ranks li p").all_inner_texts()
        assert shown == [passages[i] for i in order]
        given = [float(text) for text in page.locator("#ranks .score").all_inner_texts()]
        assert np.abs(np.array(given) - scores[order]).max() <= 0.005 + 1e-6
        assert "enregistrer" in shown[0]  # the example's question is answered in another language


def test_each_example_question_finds_its_passage(browser: Browser, api: BundleServer) -> None:
    right = ["enregistrer", "Digitalkamera", "PDF", "погоду"]
    with opened(browser, api.address) as (page, _):
        show(page, "search")
        for place, word in enumerate(right):
            page.locator("#queries button").nth(place).click()
            expect(page.locator("#ranks li").first).to_contain_text(word)


def test_chunks_are_scored_late_and_by_themselves(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        show(page, "chunks")
        chunks = page.eval_on_selector_all(
            "#scores tbody th", "cells => cells.map(c => c.innerText)"
        )
        assert " ".join(chunks) == page.input_value("#document")
        (question,) = vectors(
            api.embed(input=[page.input_value("#question")], task="retrieval.query")
        )
        shown = numbers(page, "#scores")
        for column, late in enumerate((False, True)):
            answer = api.embed(input=chunks, task="retrieval.passage", late_chunking=late)
            assert np.abs(shown[:, column] - vectors(answer) @ question).max() <= 0.005 + 1e-6
        assert np.abs(shown[:, 0] - shown[:, 1]).max() > 0.02
        assert (
            page.locator("#late mark").count() == page.locator("#plain mark").count() == len(chunks)
        )
        page.fill("#sentences", "2")
        page.press("#sentences", "Tab")
        expect(page.locator("#late mark")).to_have_count(2)


@pytest.mark.parametrize("language", ["curl", "python"])
@pytest.mark.parametrize("view", VIEWS)
def test_the_program_that_it_shows_gives_the_same(
    view: str, language: str, browser: Browser, api: BundleServer, tmp_path: Path
) -> None:
    with opened(browser, api.address) as (page, _):
        done(page)
        if view == "compare":
            page.fill("#texts", 'It\'s a "quoted" $HOME `text`\\n\n2nd, with ünïcödé and 🙂\n')
            page.click("#run")
            page.wait_for_selector("#matrix tbody tr:nth-child(2) th[title*='2nd']")
        show(page, view)
        page.click("#trained button >> nth=1")
        expect(page.locator("#status")).to_contain_text("64 numbers")
        page.click(f"[data-code={language}]")
        program = page.inner_text("#code")
        with page.expect_request(lambda request: request.method == "POST") as asked:
            page.click("#run")
        sent = asked.value.post_data_json
    if language == "curl":
        printed = ran(["bash", "-c", program])
        answer, _ = json.JSONDecoder().raw_decode(printed)
        expected = api.post(sent).json
        assert np.allclose(vectors(answer), vectors(expected), atol=1e-6)
        assert answer["usage"] == expected["usage"]
    else:
        file = tmp_path / "program.py"
        file.write_text(program, encoding="utf-8")
        printed = ran([sys.executable, str(file)])
        assert printed.splitlines()[0] == f"{len(sent['input'])} vectors of 64 numbers"


def ran(words: list[str]) -> str:
    """What a program prints; it must not fail."""
    finished = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_is_accessible_and_fits(
    view: str, dark: bool, viewport: dict[str, int], browser: Browser, api: BundleServer
) -> None:
    with opened(browser, f"{api.address}/#{view}".rstrip("#"), viewport=viewport, dark=dark) as (
        page,
        _,
    ):
        done(page, view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page, options=AXE).response
        problems = [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
        assert problems == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(15, 22, 21)") is dark


def test_a_page_that_is_not_accessible_would_be_seen(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        done(page)
        page.evaluate("document.querySelector('label[for=texts]').remove()")
        page.evaluate("document.body.style.setProperty('--soft', '#bbbbbb')")
        found = {
            violation["id"] for violation in Axe().run(page, options=AXE).response["violations"]
        }
        assert {"label", "color-contrast"} <= found


def test_the_keyboard_suffices(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, wrong):
        done(page)
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the results"
        page.keyboard.press("Tab")
        assert focused(page) == "Compare texts"
        page.keyboard.press("ArrowRight")
        assert focused(page) == "Search"
        done(page, "search")
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Control+a")
        page.keyboard.type("Where can I sort my photos?")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#ranks li").first).to_contain_text("Digitalkamera")
        for _ in range(40):  # every control is reached, and the end of the page
            page.keyboard.press("Tab")
            if focused(page) == "Ready?":
                break
        assert focused(page) == "Ready?"
        assert wrong == []


def focused(page: Page) -> str:
    text: str = page.evaluate("document.activeElement.innerText")
    return text


def test_the_servers_message_and_warnings_are_shown(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, wrong):
        done(page)
        page.fill("#exact", "100")
        page.press("#exact", "Tab")
        page.wait_for_selector("#warnings li")
        assert "not trained for 100" in page.inner_text("#warnings")
        page.fill("#texts", "word " * 9000)
        page.click("#run")
        page.wait_for_selector("#error:not([hidden])")
        assert "tokens, sample takes 8192; split the text" in page.inner_text("#error")
        page.fill("#texts", "")
        page.click("#run")
        expect(page.locator("#error")).to_contain_text("Write a text")
        page.click("#example")
        page.wait_for_selector("#error", state="hidden")
        assert all("400" in text for text in wrong)  # the browser's own line for the refusal


@pytest.mark.parametrize("texts", ["one alone", "twice\ntwice", "\n".join(map(str, range(45)))])
def test_few_and_many_texts_are_drawn(texts: str, browser: Browser, api: BundleServer) -> None:
    """One has no second direction, equal ones none at all, and many no room for numbers."""
    with opened(browser, api.address) as (page, wrong):
        done(page)
        page.fill("#texts", texts)
        page.click("#run")
        count = len(texts.splitlines())
        expect(page.locator("#matrix tbody tr")).to_have_count(count)
        expect(page.locator("#map circle")).to_have_count(count)
        assert "NaN" not in page.inner_html("#results")
        assert (page.locator("#matrix .dense").count() == 1) is (count > 40)
        assert np.allclose(numbers(page, "#matrix").diagonal(), 1)
        assert wrong == []


def test_on_a_phone_the_answer_comes_into_view(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address, viewport=PHONE) as (page, _):
        done(page)
        expect(page.locator("#status strong")).not_to_be_in_viewport()
        page.click("#run")
        expect(page.locator("#status strong")).to_be_in_viewport()


def test_the_program_is_copied(browser: Browser, api: BundleServer) -> None:
    with opened(browser, api.address) as (page, _):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        done(page)
        page.click("#copy")
        expect(page.locator("#copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#code")


def test_texts_are_never_taken_for_html(browser: Browser, api: BundleServer) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script></textarea>"
    with opened(browser, api.address) as (page, wrong):
        for view, field in (
            ("compare", "#texts"),
            ("search", "#passages"),
            ("chunks", "#document"),
        ):
            show(page, view)
            page.fill(field, f"{evil}\nAnother text.")
            page.click("#run")
            expect(page.locator("#results")).to_contain_text("onerror=alert")
        assert page.locator("#panel img, #panel script").count() == 0
        assert wrong == []


def test_a_key_is_asked_for_where_one_is_needed(
    browser: Browser, sample_chunks: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# of this test\n{KEY}\n")
    with (
        serving(sample_chunks, "--api-key-file", str(keys)) as server,
        opened(browser, server.address) as (page, _),
    ):
        page.wait_for_selector("#key-field:not([hidden])")
        assert "a key is needed" in page.inner_text("#error")
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        done(page)
        assert page.locator("#error").is_hidden()
        program = page.inner_text("#code")
        assert "YOUR-KEY" in program
        assert KEY not in program


def test_a_bundle_of_one_task_without_late_chunking(
    browser: Browser, sample_classification: Path
) -> None:
    with serving(sample_classification) as server, opened(browser, server.address) as (page, wrong):
        done(page)
        assert page.locator("#task option").all_inner_texts() == ["classification"]
        show(page, "search")
        assert page.locator("#task-field").is_visible()
        show(page, "chunks")
        assert "HEAD=chunks" in page.inner_text("#late")
        assert page.locator("#scores thead th").all_inner_texts() == ["Chunk", "By itself"]
        assert wrong == []
