"""The picture of a proof in the documents: ``python -m tests.interop.proof_picture PROOF_HTML``.

The top of the page on the left, on the right its charts by length and of the controls.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.documents import DOCS

PICTURE = DOCS / "images" / "proof.png"
WIDTH, GAP, COLOURS = 1180, 24, 200
RIGHT = ("lengths", "controls")


def main(page_file: str) -> None:
    """Take it in light colours, in few of them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(Path(page_file).resolve().as_uri())
        tops = page.eval_on_selector_all(
            "h2", "all => all.map(h => h.getBoundingClientRect().top + window.scrollY)"
        )
        left = _taken(page, 0, tops[1] - 30)  # to the end of the claims
        right = [_section(page, name) for name in RIGHT]
        browser.close()
    height = max(left.height, sum(part.height for part in right))
    whole = Image.new("RGB", (2 * WIDTH + GAP, height), "white")
    whole.paste(left, (0, 0))
    at = 0
    for part in right:
        whole.paste(part, (WIDTH + GAP, at))
        at += part.height
    small = whole.resize((whole.width * 2 // 3, whole.height * 2 // 3), Image.Resampling.LANCZOS)
    small.quantize(COLOURS, Image.Quantize.FASTOCTREE).save(PICTURE, optimize=True)


def _section(page: Page, name: str) -> Image.Image:
    """From its heading to below its chart."""
    top, bottom = page.evaluate(
        """name => {
          const heading = document.getElementById(name);
          let figure = heading;
          while (figure.tagName !== 'FIGURE') figure = figure.nextElementSibling;
          const place = one => one.getBoundingClientRect();
          return [place(heading).top + scrollY, place(figure).bottom + scrollY];
        }""",
        name,
    )
    return _taken(page, top, bottom)


def _taken(page: Page, top: float, bottom: float) -> Image.Image:
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    taken = page.screenshot(full_page=True, clip=clip)
    return Image.open(io.BytesIO(taken)).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
