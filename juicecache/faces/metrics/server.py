"""A small HTTP server for pages that a program or a person looks at now and then.

Law: whoever reaches the port can take no more than `_THREADS` threads and `_REQUEST_BYTES_MAX`
each, for a few seconds; who comes meanwhile waits in the kernel's queue. The server of the
standard library has a thread for every caller, and no end for one who sends a byte at a time.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from juicecache.errors import ConfigError

_THREADS = 4
"""A scrape, two probes and a person at once; more wait for milliseconds."""
_BACKLOG = 16
_REQUEST_S = 5.0
"""For all of a request to come, and as long for the answer to be taken."""
_REQUEST_BYTES_MAX = 8192
"""A browser's headers have one or two thousand."""
_ACCEPT_PAUSE_S = 0.1
"""When no descriptor is left, before the next try."""
_CLOSE_S = 1.0
"""How long the end waits for a request under way; its thread does not keep the process alive."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

logger = logging.getLogger("juicecache")


class Page(NamedTuple):
    """An answer."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


class PageServer:
    """Serves pages from threads of its own as soon as it is made, until `close`.

    Parameters
    ----------
    address
        To listen on; port 0 takes any free one. Afterwards the attribute is the real one.
    pages
        What makes the page of each path; called anew for every request, by several threads.

    Raises
    ------
    ConfigError
        The address cannot be had.
    """

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Callable[[], Page]]) -> None:
        host, port = address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}, port {port}: {error.strerror or error}"
            ) from error
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._pages = pages
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name=f"juicecache-http-{number}", daemon=True)
            for number in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        """Where the pages are."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connected, _ = self._listening.accept()
            except OSError:  # closed, or out of descriptors
                self._closed.wait(_ACCEPT_PAUSE_S)
                continue
            with connected:
                try:
                    self._answer(connected)
                except OSError:
                    pass  # the caller has gone, or is too slow

    def _answer(self, connected: socket.socket) -> None:
        request = _receive(connected)
        method, page = self._page(request)
        body = page.body.encode("utf-8", "backslashreplace")
        head = (
            f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\n"
            f"Content-Type: {page.content_type}\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n\r\n"
        )
        connected.settimeout(_REQUEST_S)  # of the whole `sendall`
        connected.sendall(head.encode("ascii") + (b"" if method == "HEAD" else body))
        connected.shutdown(socket.SHUT_WR)

    def _page(self, request: bytes) -> tuple[str, Page]:
        words = request.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", Page("this is no request\n", 400)
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, Page("only GET and HEAD are answered\n", 405)
        make = self._pages.get(target.partition("?")[0])
        if make is None:
            return method, Page("there is no such page\n", 404)
        try:
            return method, make()
        except Exception:
            logger.exception("the page %s cannot be made", target.partition("?")[0])
            return method, Page("an error; the log has more\n", 500)

    def close(self) -> None:
        """Take no more requests. Safe to call twice."""
        self._closed.set()
        try:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits for a caller
        except OSError:
            pass  # closed before
        for thread in self._threads:
            thread.join(_CLOSE_S)
        self._listening.close()


def _receive(connected: socket.socket) -> bytes:
    """Return a request up to the end of its headers, or as much of it as came and may come."""
    end_s = time.monotonic() + _REQUEST_S
    request = b""
    while b"\r\n\r\n" not in request and len(request) < _REQUEST_BYTES_MAX:
        connected.settimeout(max(end_s - time.monotonic(), 0.001))
        piece = connected.recv(_REQUEST_BYTES_MAX - len(request))
        if not piece:
            break
        request += piece
    return request
