"""transformers.js in a headless Chromium: a page that this program serves with the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

SECONDS = 300  # of one page; the sample takes some 25 on two busy cores
TYPES = {
    ".html": "text/html",
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Page(BaseHTTPRequestHandler):
    """Files below a few folders, and one answer."""

    files: ClassVar[dict[str, Path]] = {}  # a file or a folder by the path's beginning
    answered = threading.Event()
    answer: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = next((s for s in self.files if path.startswith(s)), None)
        file = self.files[start] / path.removeprefix(start) if start else None
        found = file is not None and file.is_file()
        body = file.read_bytes() if file is not None and found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", TYPES.get(Path(path).suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).answer = json.loads(self.rfile.read(length))
        self.send_response(204)
        self.end_headers()
        self.answered.set()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def browse(chromium: str, address: str) -> bool:
    """Whether the page answered."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={profile}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return Page.answered.wait(SECONDS)
        finally:
            browser.terminate()
            browser.wait()


def main(bundle: str, request: str, answer: str, modules: str, chromium: str) -> None:
    Page.files = {
        "/models/bundle/": Path(bundle),
        "/library/": Path(modules) / "@huggingface/transformers/dist",
        "/onnxruntime/": Path(modules) / "onnxruntime-web/dist",
        "/request": Path(request),
        "/page.html": Path(__file__).parent / "page.html",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answered = browse(chromium, f"http://127.0.0.1:{server.server_port}/page.html")
    server.shutdown()
    if not answered:
        raise SystemExit(f"no answer of the page in {SECONDS} s")
    if "error" in Page.answer:
        raise SystemExit(f"the page: {Page.answer['error']}")
    Path(answer).write_text(json.dumps(Page.answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
