"""Servers that are reached by TLS: who is trusted, who is let in, and what is said otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from juicecache.errors import ConfigError, EngineUnavailableError
from juicecache.testing.certificates import Authority
from juicecache.testing.databases import mysql_server, postgres_server
from juicecache.testing.redis_server import redis_server
from juicecache.testing.servers import free_ports, run_juicefs
from juicecache.volume.formatting import format_volume
from juicecache.volume.parts import open_engine
from juicecache.volume.volume import open_volume

pytestmark = pytest.mark.service

KINDS = ["redis", "postgres", "mysql"]
SECRET = "pass-word"


class Place(NamedTuple):
    """A server that nobody reaches but by TLS, and an empty database in it."""

    kind: str
    base: str
    authority: Authority
    other: Authority

    def url(self, *options: str) -> str:
        """Return its address with options."""
        return f"{self.base}?{'&'.join(options)}" if options else self.base

    def trusting(self, authority: Authority, monkeypatch) -> str:
        """Return the address that trusts an authority and checks the name of the server."""
        if self.kind == "redis":
            return self.url(f"tls-ca-cert-file={authority.path}")
        if self.kind == "postgres":
            return self.url("sslmode=verify-full", f"sslrootcert={authority.path}")
        # There is no such option: both clients trust whom the system trusts, and this file.
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        return self.url("tls=true")

    def unchecked(self) -> str:
        """Return the address with TLS that checks nothing."""
        options = {
            "redis": "insecure-skip-verify=true",
            "postgres": "sslmode=require",
            "mysql": "tls=skip-verify",
        }
        return self.url(options[self.kind])


@contextmanager
def redis_by_tls(folder: Path, authority: Authority, clients: str) -> Iterator[str]:
    """Run Redis; ``clients`` is ``yes`` where they show a certificate."""
    (port,) = free_ports(1)
    certificate = str(authority.sign(f"redis-{clients}"))
    options = {
        "--tls-port": str(port),
        "--tls-cert-file": certificate,
        "--tls-key-file": certificate,
        "--tls-ca-cert-file": str(authority.path),
        "--tls-auth-clients": clients,
        "--requirepass": SECRET,
    }
    with redis_server(folder, *(word for option in options.items() for word in option)):
        yield f"rediss://:{SECRET}@localhost:{port}"


@contextmanager
def postgres_by_tls(folder: Path, authority: Authority) -> Iterator[str]:
    """Run PostgreSQL, where the user ``certified`` shows a certificate."""
    rules = folder / "rules"
    rules.write_text(
        "local all all trust\n"
        "hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"
        "hostssl all all 127.0.0.1/32 scram-sha-256\n"
    )
    options = (f"hba_file={rules}", f"ssl_ca_file={authority.path}")
    with postgres_server(folder, *options, certificate=authority.sign("postgres")) as server:
        server.admin(f"CREATE ROLE certified SUPERUSER LOGIN PASSWORD '{SECRET}'")
        yield plain(server.fresh_url())


@contextmanager
def mysql_by_tls(folder: Path, authority: Authority) -> Iterator[str]:
    certificate = authority.sign("mysql")
    only = "--require-secure-transport=ON"
    with mysql_server(folder, only, certificate=certificate) as server:
        yield plain(server.fresh_url())


def plain(url: str) -> str:
    return url.partition("?")[0].replace("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> tuple[Authority, Authority]:
    folder = tmp_path_factory.mktemp("authorities")
    for one in (folder, folder.parent, folder.parent.parent):
        one.chmod(0o755)  # the servers run as users of their own
    return Authority(folder, "right"), Authority(folder, "wrong")


@pytest.fixture(scope="module", params=KINDS)
def place(request, authorities, tmp_path_factory) -> Iterator[Place]:
    folder, authority = tmp_path_factory.mktemp(request.param), authorities[0]
    servers = {
        "redis": lambda: redis_by_tls(folder, authority, "no"),
        "postgres": lambda: postgres_by_tls(folder, authority),
        "mysql": lambda: mysql_by_tls(folder, authority),
    }
    with servers[request.param]() as base:
        yield Place(request.param, f"{base}/1" if request.param == "redis" else base, *authorities)


def refused(url: str, error: type[Exception] = EngineUnavailableError) -> str:
    """Assert that nothing is read at an address, and return what is said, never the password."""
    with pytest.raises(error) as caught, closing(open_engine(url, read_only=False)) as engine:
        engine.setting()
    text = str(caught.value)
    assert "pass-word" not in text
    return text


def test_a_volume_behind_tls_is_one_for_both_clients(place, monkeypatch, tmp_path):
    url = place.trusting(place.authority, monkeypatch)
    format_volume(url, "volume", bucket=f"{tmp_path}/objects/", trash_days=0, remember=False)
    with open_volume(url, cache_size="0") as volume:
        volume.write_file("/file", b"by TLS")
    with open_volume(url, cache_size="0", read_only=True) as volume:
        assert volume.read_file("/file") == b"by TLS"
    run_juicefs("fsck", url)
    with open_volume(place.unchecked(), cache_size="0") as volume:
        assert volume.read_file("/file") == b"by TLS"


def test_who_is_not_trusted_is_told_with_the_option(place, monkeypatch):
    text = refused(place.trusting(place.other, monkeypatch))
    option = {"redis": "tls-ca-cert-file", "postgres": "sslrootcert", "mysql": "SSL_CERT_FILE"}
    assert re.search(r"localhost:\d+.*no TLS with.*certificate.*", text)
    assert option[place.kind] in text


def test_another_name_is_refused(place, monkeypatch):
    url = place.trusting(place.authority, monkeypatch)
    by_number = url.replace("localhost", "127.0.0.1")
    assert re.search(r"no TLS with.*(not valid for|does not match)", refused(by_number))
    if place.kind == "postgres":
        with closing(open_engine(by_number.replace("-full", "-ca"), read_only=True)) as engine:
            engine.setting()


def test_who_is_trusted_must_be_a_file(place, monkeypatch, tmp_path):
    url = place.trusting(place.authority, monkeypatch)
    if place.kind == "mysql":
        monkeypatch.setenv("SSL_CERT_FILE", f"{tmp_path}/nowhere")
        assert "no TLS with" in refused(url)
        return
    missing = url.replace(str(place.authority.path), f"{tmp_path}/nowhere")
    option = {"redis": "tls-ca-cert-file", "postgres": "sslrootcert"}[place.kind]
    text = refused(missing, ConfigError)
    assert f"option {option}: '{tmp_path}/nowhere' cannot be read" in text


def test_without_tls_nobody_gets_in(place):
    plainly = {
        "redis": place.base.replace("rediss:", "redis:"),
        "postgres": place.url("sslmode=disable"),
        "mysql": place.url("tls=false"),
    }
    refused(plainly[place.kind])


@pytest.mark.parametrize("kind", KINDS)
def test_tls_is_not_left_out_where_the_server_has_none(kind, tmp_path, monkeypatch):
    if kind == "redis":
        # It waits for the end of a line, and we for its answer.
        monkeypatch.setattr("juicecache.meta.engines.redis_link._REPLY_TIMEOUT_S", 0.5)
        with redis_server(tmp_path) as server:
            url = server.fresh_url().replace("redis:", "rediss:").replace("127.0.0.1", "localhost")
            assert "does it speak TLS" in refused(url)
        return
    run = {"postgres": postgres_server, "mysql": mysql_server}[kind]
    with run(tmp_path, *(["--ssl=0"] if kind == "mysql" else [])) as server:
        url = plain(server.fresh_url())
        for option in {"postgres": ["require"], "mysql": ["true", "skip-verify"]}[kind]:
            name = "sslmode" if kind == "postgres" else "tls"
            assert re.search("no TLS with.*SSL", refused(f"{url}?{name}={option}"))
        choice = {"postgres": "sslmode=prefer", "mysql": "tls=preferred"}[kind]
        with closing(open_engine(f"{url}?{choice}", read_only=False)) as engine:
            engine.prepare()


# ---------------------------------------------------------------------- certificates of clients


def test_redis_lets_in_who_shows_a_certificate(authorities, tmp_path):
    authority, other = authorities
    good, bad = authority.sign("good"), other.sign("bad")
    with redis_by_tls(tmp_path, authority, "yes") as base:
        url = f"{base}/1?tls-ca-cert-file={authority.path}"
        for shown in ("", f"&tls-cert-file={bad}&tls-key-file={bad}"):
            # Whether the server's reason is seen before its end is a matter of luck.
            assert re.search("no TLS with|take our certificate", refused(url + shown))
        shown = f"&tls-cert-file={good}&tls-key-file={good}"
        format_volume(url + shown, "volume", bucket=f"{tmp_path}/objects/", remember=False)
        with open_volume(url + shown, cache_size="0") as volume:
            volume.write_file("/file", b"content")
        run_juicefs("fsck", url + shown)
        assert "cannot be read" in refused(f"{url}{shown}0", ConfigError)


def test_postgres_lets_in_who_shows_a_certificate(authorities, tmp_path):
    authority, other = authorities
    good, bad = authority.sign("good"), other.sign("bad")
    for key in (good, bad):
        key.chmod(0o600)
    with postgres_by_tls(tmp_path, authority) as base:
        place = re.sub("//.*@", f"//certified:{SECRET}@", base)
        url = f"{place}?sslmode=verify-full&sslrootcert={authority.path}"
        for shown in ("", f"&sslcert={bad}&sslkey={bad}"):
            assert "no TLS with the database" in refused(url + shown)
        shown = f"&sslcert={good}&sslkey={good}"
        format_volume(url + shown, "volume", bucket=f"{tmp_path}/objects/", remember=False)
        with open_volume(url + shown, cache_size="0") as volume:
            volume.write_file("/file", b"content")
        run_juicefs("fsck", url + shown)


# ---------------------------------------------------------------------- options that cannot work


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://localhost:1/1?tls-ca-cert-file=/dev/null", "need an address with rediss://"),
        ("redis://localhost:1/1?insecure-skip-verify=true", "need an address with rediss://"),
        ("rediss://localhost:1/1?insecure-skip-verify=false", "is true, or not there"),
        ("rediss://localhost:1/1?tls-ca=/dev/null", "unknown option 'tls-ca'; .* tls-ca-cert-file"),
        ("postgres://localhost:1/a?sslmod=require", 'invalid connection option "sslmod"'),
        ("postgres://localhost:1/a?sslmode=often", 'invalid sslmode value: "often"'),
        ("mysql://u@(localhost:1)/a?tls=mine", "tls is true, false, skip-verify or preferred"),
        ("mysql://u@(localhost:1)/a?ssl=true", "unknown option 'ssl'; MySQL takes tls"),
    ],
)
def test_an_option_that_cannot_work_is_told(url, text):
    secret = re.sub(r"//(u@)?", "//u:pass-word@", url)
    assert re.search(text, refused(secret, ConfigError))
