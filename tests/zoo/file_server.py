"""A web server of files on the loopback interface, with faults on demand."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """`with FileServer() as server:` runs it in a thread.

    Attributes:
        url: without a path.
        files: path -> content.
        redirects: path -> where it sends.
        statuses: path -> what is answered in place of the file.
        lengths: path -> the Content-Length that is announced, "" for none, in place of the right one.
        drop_after: bytes after which a connection breaks, None: none does.
        requests: path and first byte asked for, of all requests in order.
        headers_seen: those of the last request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, int] = {}
        self.lengths: dict[str, str] = {}
        self.drop_after: int | None = None
        self.requests: list[tuple[str, int]] = []
        self.headers_seen: dict[str, str] = {}

    def __enter__(self) -> FileServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        server, path = self.server, self.path
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        server.requests.append((path, start))
        server.headers_seen = {name.lower(): value for name, value in self.headers.items()}
        if path in server.redirects:
            return self._head(302, {"Location": server.redirects[path], "Content-Length": "0"})
        if path in server.statuses or path not in server.files:
            return self._head(server.statuses.get(path, 404), {"Content-Length": "0"})
        content = server.files[path]
        if start >= len(content) > 0 and start:
            return self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
        length = server.lengths.get(path, str(len(content) - start))
        self._head(206 if start else 200, {"Content-Length": length} if length else {})
        end = len(content) if server.drop_after is None else start + server.drop_after
        with suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(content[start:end])

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
