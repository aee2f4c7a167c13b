"""
Downloads at the same time: a pool of threads, and threads that return their result.

    python examples/downloads.py [URL ...]

Without an argument it downloads from a small server that it starts itself.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

from pydistrib import Thread, ThreadPool


class SlowAnswer(BaseHTTPRequestHandler):
    """Answer with a short text, half a second after the question."""

    def do_GET(self) -> None:
        """Answer."""
        time.sleep(0.5)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"This is {self.path}.\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def download(url: str) -> bytes:
    """Get what is behind an address."""
    with urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def download_all(urls: list[str]) -> None:
    """Download everything twice: by a pool, and by threads of our own."""
    start = time.perf_counter()
    with ThreadPool(8) as pool:
        for url, content in zip(urls, pool.imap(download, urls), strict=True):
            print(f"{url}: {len(content)} bytes")
    print(f"ThreadPool: {len(urls)} downloads in {time.perf_counter() - start:.2f} s")

    start = time.perf_counter()
    threads = [Thread(target=download, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    total = sum(len(thread.result()) for thread in threads)
    print(f"Threads: {total} bytes in {time.perf_counter() - start:.2f} s")


def main() -> None:
    """Download the addresses of the command line, or some of our own."""
    if len(sys.argv) > 1:
        download_all(sys.argv[1:])
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowAnswer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        download_all([f"{address}/{number}" for number in range(6)])
        server.shutdown()


if __name__ == "__main__":
    main()
