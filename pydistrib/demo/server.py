"""A web server on this machine whose every answer takes a known time."""

from __future__ import annotations

import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"


def file_content(num: int) -> bytes:
    """Give the file that has the number `num`, 60 KB or more."""
    return f"This line belongs to download {num}.\n".encode() * 2000


class SlowServer:
    """
    Serve ``file_content(num)`` as /num, `seconds` after it was asked for.

    Requests are answered at the same time, on a thread each, as any web server does.
    """

    def __init__(self, seconds: float) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(seconds)
                content = file_content(int(self.path.removeprefix("/")))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass  # the table is the only output

        self.seconds = seconds
        self._server = ThreadingHTTPServer((_HOST, 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def download(self, num: int) -> bytes:
        """Get a file over HTTP."""
        connection = HTTPConnection(
            _HOST, self._server.server_port, timeout=self.seconds + 30
        )
        try:
            connection.request("GET", f"/{num}")
            return connection.getresponse().read()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
