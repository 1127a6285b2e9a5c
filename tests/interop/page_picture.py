"""The picture of the page in the documents: ``python -m tests.interop.page_picture BUNDLE``."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.documents import DOCS
from tests.interop.api_server import serving

PICTURE = DOCS / "images" / "api-page.png"
WIDTH, HEIGHT = 1280, 1500
COLOURS = 96
ALONE, MOST = 20, 60  # milliseconds of an answer, tries


def main(bundle: str) -> None:
    """Take it of the example that the page runs, in few colours."""
    with serving(Path(bundle)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(server.address)
        page.wait_for_selector("#results[data-done=compare]")
        for _ in range(MOST):  # its time is that of an encoder that is warm and alone
            with page.expect_response("**/v1/embeddings") as answered:
                page.click("#run")
            page.wait_for_selector("body:not(.busy)")
            if float(answered.value.headers["x-adaptrt-ms"]) < ALONE:
                break
        shown = page.locator("#map").bounding_box()
        height = HEIGHT if shown is None else int(shown["y"] + shown["height"]) + 40
        taken = page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
