"""A Chromium that is on this machine, a server of files, and a page that is open in both."""

from __future__ import annotations

import functools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 180_000  # with other tests beside it
FOUND = re.compile(r" ms$")  # how the page's state ends when a picture is done


@contextmanager
def serving(folder: Path, isolated: bool = False) -> Iterator[str]:
    """Serve a folder's files; gives the address. `isolated` sends the headers that threads need."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Visit:
    """An open page: Playwright's, with what was asked for and what went wrong since it was opened."""

    page: Any
    requests: list[str]
    faults: list[str]

    def expect_state(self, text: Any) -> None:
        from playwright.sync_api import expect

        expect(self.page.locator("#status")).to_have_text(text, timeout=PATIENCE_MS)

    def expect_error(self, text: Any) -> None:
        """One line among the errors, and no other."""
        from playwright.sync_api import expect

        expect(self.page.locator("#errors li")).to_have_text([text], timeout=PATIENCE_MS)

    def set_threshold(self, value: float) -> None:
        self.page.locator("#threshold").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(value)
        )

    def save(self, what: str) -> Path:
        """The file that a button saves."""
        with self.page.expect_download() as download:
            self.page.click(what)
        return Path(download.value.path())

    def saved_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.save("#save-json").read_text())
        return found


@contextmanager
def visiting(browser: Any, address: str, **settings: Any) -> Iterator[Visit]:
    """Open a page in a context of its own."""
    context = browser.new_context(**settings)
    visit = Visit(context.new_page(), [], [])
    context.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
    visit.page.goto(address)
    try:
        yield visit
    finally:
        context.close()
