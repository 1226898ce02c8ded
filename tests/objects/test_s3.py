"""What S3Store makes of answers, good and bad, from a small server in this process."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import crc32c
import pytest

from juicecache.errors import (
    CorruptBlockError,
    ObjectDeniedError,
    ObjectError,
    ObjectNotFoundError,
    ObjectUnavailableError,
)
from juicecache.objects import s3 as s3_module
from juicecache.objects.retry import RetryStore
from juicecache.objects.s3 import S3Options, S3Store
from juicecache.runtime import loop_thread
from juicecache.testing.servers import S3Server

SECRET = "very-secret-key"
TOKEN = "very-secret-token"


class Script(ThreadingHTTPServer):
    """Answers every request with what the test laid down, and remembers the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.cut_bytes = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    def fail(self, status: int, code: str) -> None:
        self.status = status
        self.body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body[: len(self.server.body) - self.server.cut_bytes])
        if self.server.cut_bytes:
            self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_DELETE = answer

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def store(script: Script) -> Iterator[S3Store]:
    store = S3Store(
        S3Options(
            f"http://127.0.0.1:{script.server_port}",
            "bucket",
            access_key="key",
            secret_key=SECRET,
            session_token=TOKEN,
            storage_class="STANDARD_IA",
        )
    )
    yield store
    loop_thread().run(store.aclose())


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "NoSuchKey", ObjectNotFoundError),
        (404, "NoSuchBucket", ObjectNotFoundError),
        (403, "AccessDenied", ObjectDeniedError),
        (403, "SignatureDoesNotMatch", ObjectDeniedError),
        (401, "Unauthorized", ObjectDeniedError),
        (400, "InvalidAccessKeyId", ObjectDeniedError),
        (500, "InternalError", ObjectUnavailableError),
        (502, "BadGateway", ObjectUnavailableError),
        (503, "SlowDown", ObjectUnavailableError),
        (429, "TooManyRequests", ObjectUnavailableError),
        (400, "InvalidArgument", ObjectError),
    ],
)
@pytest.mark.parametrize("operation", ["get", "put"])
def test_translates_errors(
    script: Script, store: S3Store, operation: str, status: int, code: str, error: type[Exception]
) -> None:
    script.fail(status, code)
    call = store.get("name") if operation == "get" else store.put("name", b"body")
    with pytest.raises(error) as caught:
        loop_thread().run(call)
    assert type(caught.value) is error or code == "NoSuchBucket"
    assert len(script.requests) == 1
    assert SECRET not in str(caught.value)
    if code == "NoSuchBucket":
        assert "'bucket'" in str(caught.value)


def test_nobody_listens() -> None:
    store = S3Store(S3Options("http://127.0.0.1:1", "bucket", access_key="a", secret_key="b"))
    with pytest.raises(ObjectUnavailableError):
        loop_thread().run(store.get("name"))
    loop_thread().run(store.aclose())


def test_short_body_is_unavailable(script: Script, store: S3Store) -> None:
    script.body, script.cut_bytes = b"x" * 1000, 400
    with pytest.raises(ObjectUnavailableError):
        loop_thread().run(store.get("name"))


def test_slow_answer_times_out(script: Script) -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, never answers
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    store = S3Store(
        S3Options(endpoint, "bucket", access_key="a", secret_key="b", get_timeout_s=0.2)
    )
    with pytest.raises(ObjectUnavailableError):
        loop_thread().run(store.get("name"))
    loop_thread().run(store.aclose())
    listener.close()


def test_checks_the_recorded_checksum(script: Script, store: S3Store) -> None:
    script.body = b"some bytes"
    script.headers = {"x-amz-meta-crc32c": str(crc32c.crc32c(b"some bytes"))}
    assert loop_thread().run(store.get("name", length=10)) == b"some bytes"
    script.body = b"same bytes"
    with pytest.raises(CorruptBlockError):
        loop_thread().run(store.get("name"))


def test_server_that_ignores_ranges(script: Script, store: S3Store) -> None:
    script.body = b"0123456789"
    assert loop_thread().run(store.get("name", 2, 5, length=10)) == b"234"
    assert script.requests[0][2]["Range"] == "bytes=2-4"


def test_put_is_one_plain_request(script: Script, store: S3Store) -> None:
    loop_thread().run(store.put("folder/name", memoryview(b"some bytes")))
    ((method, path, headers),) = script.requests
    assert (method, path.partition("?")[0]) == ("PUT", "/bucket/folder/name")
    assert headers["x-amz-meta-crc32c"] == str(crc32c.crc32c(b"some bytes"))
    assert headers["x-amz-storage-class"] == "STANDARD_IA"
    assert headers["Content-Length"] == "10"
    assert "Expect" not in headers
    assert not any(name.lower().startswith("x-amz-checksum") for name in headers)


def test_retries_are_counted_by_the_wrapper_alone(script: Script, store: S3Store) -> None:
    async def no_pause(seconds: float) -> None:
        pass

    script.fail(503, "SlowDown")
    with pytest.raises(ObjectUnavailableError):
        loop_thread().run(RetryStore(store, retries=3, sleep=no_pause).get("name"))
    assert len(script.requests) == 4


def test_concurrent_first_use_opens_one_client(script: Script, store: S3Store) -> None:
    script.body = b"x"
    calls = [loop_thread().submit(store.get("name")) for _ in range(20)]
    wait(calls)
    assert {call.result() for call in calls} == {b"x"}
    client = loop_thread().run(store._client())
    assert client is loop_thread().run(store._client())


def test_options_show_no_secret(store: S3Store) -> None:
    shown = repr(store._options) + store.describe()
    assert SECRET not in shown
    assert TOKEN not in shown


@pytest.mark.service
def test_child_of_a_fork_uses_the_store_again(s3: S3Server) -> None:
    store = S3Store(s3.options(s3.fresh_bucket()))
    loop_thread().run(store.put("name", b"of the parent"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            seen = loop_thread().run(store.get("name"))
            loop_thread().run(store.put("name", b"of the child"))
            loop_thread().run(store.aclose())
            code = 0 if seen == b"of the parent" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop_thread().run(store.get("name")) == b"of the child"
    loop_thread().run(store.aclose())


@pytest.mark.service
def test_clients_that_are_gone_mean_nothing_to_a_fork(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hook: hooks.append(hook))
    gc.collect()
    before = set(s3_module._clients)
    for _ in range(3):
        store = S3Store(s3.options(s3.fresh_bucket()))
        loop_thread().run(store.put("name", b"x"))
        assert len(set(s3_module._clients) - before) == 1
        loop_thread().run(store.aclose())
        del store
        gc.collect()
        assert set(s3_module._clients) <= before
    assert hooks == []


@pytest.mark.service
def test_wrong_secret_and_absent_bucket(s3: S3Server) -> None:
    wrong = S3Store(S3Options(s3.endpoint, "any", access_key="a", secret_key=SECRET))
    with pytest.raises(ObjectDeniedError, match="secret key"):
        loop_thread().run(wrong.get("name"))
    absent = S3Store(s3.options("never-made"))
    with pytest.raises(ObjectNotFoundError, match="never-made"):
        loop_thread().run(absent.put("name", b"x"))
    for store in (wrong, absent):
        loop_thread().run(store.aclose())


@pytest.mark.service
def test_lists_more_than_a_page(s3: S3Server) -> None:
    store = S3Store(s3.options(s3.fresh_bucket()))

    async def put_and_list() -> list[str]:
        import asyncio

        await asyncio.gather(*(store.put(f"n/{number:04d}", b"") for number in range(1005)))
        return [info.name async for info in store.list("n/", "n/0001")]

    assert loop_thread().run(put_and_list()) == [f"n/{number:04d}" for number in range(2, 1005)]
    loop_thread().run(store.aclose())
