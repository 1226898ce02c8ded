"""Options, addresses and the list of volumes."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.config import (
    OPTIONS,
    TierOptions,
    VolumeOptions,
    find_volume,
    forget_volume,
    list_volumes,
    mask_url,
    parse_meta,
    parse_size,
    parse_time,
    parse_volume_url,
    remember_volume,
    rsa_passphrase,
    storage_keys,
)
from juicecache.errors import ConfigError

HOME = {"HOME": "/home/me"}


def options(environ: dict[str, str] | None = None, **given: object) -> VolumeOptions:
    return VolumeOptions.from_options(given, HOME if environ is None else environ)


# -- options ---------------------------------------------------------------------------


def test_defaults() -> None:
    got = options()
    assert got.cache_dir == ("/home/me/.cache/juicecache",)
    assert (got.cache_size_bytes, got.buffer_size_bytes) == (100 << 30, 300 << 20)
    assert (got.free_space_ratio, got.cache_eviction) == (0.1, "2-random")
    assert (got.open_cache_s, got.heartbeat_s, got.get_timeout_s) == (0, 12, 60)
    assert (got.read_only, got.subdir, got.secret_key) == (False, "", "")


def test_the_cache_folder_follows_the_environment() -> None:
    assert options({"XDG_CACHE_HOME": "/x", **HOME}).cache_dir == ("/x/juicecache",)
    assert options({"XDG_CACHE_HOME": "x", **HOME}).cache_dir == ("/home/me/.cache/juicecache",)


@pytest.mark.parametrize(
    ("given", "folders"),
    [
        ("/a", ("/a",)),
        ("/a:/b:/a", ("/a", "/b")),
        ("memory:/a", ("memory", "/a")),
        (Path("/a"), ("/a",)),
        (["memory", Path("/a:b")], ("memory", "/a:b")),
    ],
)
def test_cache_dir(given: object, folders: tuple[str, ...]) -> None:
    assert options(cache_dir=given).cache_dir == folders


def test_every_field_is_an_option_with_a_reason_and_a_default_that_it_takes() -> None:
    assert [option.field for option in OPTIONS] == [item.name for item in fields(VolumeOptions)]
    assert len({option.name for option in OPTIONS}) == len(OPTIONS)
    plain = VolumeOptions()
    for option in OPTIONS:
        assert option.reason
        assert option.parse(option.default) == getattr(plain, option.field), option.name
        if option.low:
            option.parse(option.low)
            option.parse(option.high)


def test_values_as_a_user_writes_them() -> None:
    got = options(
        cache_size="40Gi", buffer_size=64, open_cache="500ms", attr_cache=2, read_only="yes",
        io_retries="3", free_space_ratio="0.25", subdir="a/b", upload_limit=None,
    )  # fmt: skip
    assert (got.cache_size_bytes, got.buffer_size_bytes) == (40 << 30, 64 << 20)
    assert (got.open_cache_s, got.attr_cache_s, got.read_only) == (0.5, 2.0, True)
    assert (got.io_retries, got.free_space_ratio, got.subdir) == (3, 0.25, "a/b")
    assert got.upload_limit_mbps == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("cache_sise", 1, "unknown option 'cache_sise'; did you mean 'cache_size'?"),
        ("cache-size", 1, "did you mean 'cache_size'?"),
        ("zzzzzz", 1, "unknown option 'zzzzzz'$"),
        ("cache_size", "lots", "option cache_size: 'lots' is not a size"),
        ("cache_size", -1, "option cache_size: -1"),
        ("cache_size", True, "option cache_size: True"),
        ("cache_size", float("inf"), "option cache_size: inf"),
        ("cache_size", "9" * 10_000, "option cache_size"),
        ("cache_size", "1\N{KELVIN SIGN}", "option cache_size"),
        ("open_cache", "1 fortnight", "option open_cache: '1 fortnight' is not a time"),
        ("open_cache", "", "option open_cache: ''"),
        ("free_space_ratio", 1.5, "1.5 is not between 0 and 0.99"),
        ("max_downloads", 0, "option max_downloads: 0 is not between 1 and 10000"),
        ("max_downloads", 1.5, "option max_downloads: 1.5 is not a whole number"),
        ("io_retries", "101", "'101' is not between 0 and 100"),
        ("get_timeout", 0, "option get_timeout: 0 is not between 100ms and 1h"),
        ("buffer_size", 1, "between 16MiB and 1TiB"),
        ("cache_eviction", "fifo", "option cache_eviction: 'fifo' is not one of"),
        ("verify_cache_checksum", "some", "'some' is not one of"),
        ("read_only", "perhaps", "'perhaps' is not true or false"),
        ("subdir", 3, "option subdir: 3 is not a text"),
        ("cache_dir", "", "option cache_dir: ''"),
        ("cache_dir", "/a::/b", "option cache_dir"),
        ("cache_dir", [1], "option cache_dir"),
        ("cache_dir", "memroy", "'memroy' is neither .* nor memory; did you mean 'memory'?"),
        ("cache_dir", "/a:cache", "that name is './cache'"),
        ("volum", "first", "unknown option 'volum'; did you mean 'volume'?"),
        ("tiers", "{", "option tiers: '{' is not JSON"),
        ("tiers", {"path": "/a"}, "is not a list of tiers"),
        ("tiers", [{"paht": "/a", "quota": "1Gi"}], "unknown key 'paht'; did you mean 'path'?"),
        ("tiers", [{"medium": "RAM", "quota": 1}], "medium 'RAM' is not one of"),
        ("tiers", [{"medium": "SSD", "quota": 1}], "path must be a folder"),
        ("tiers", [{"path": "/a,,/b", "quota": 1}], "path must be a folder"),
        ("tiers", [{"path": ["/a", 7], "quota": 1}], "path must be a folder"),
        ("tiers", [{"path": "/a"}], r"tiers: tier 1 \(/a\): quota is missing"),
        ("tiers", [{"path": "/a", "quota": 1}, {"path": "/b"}], r"tier 2 \(/b\): quota is missing"),
        ("tiers", [{"path": "/a:/b", "quota": 1}], "are separated by ','"),
        ("tiers", [{"path": "/a,/b,/c", "quota": "1Gi,2Gi"}], "quota must be one size"),
        ("tiers", [{"path": "/a", "quota": 0}], "quota must be one size"),
        ("tiers", [{"path": "/a", "quota": "lots"}], r"tier 1 \(/a\): quota 'lots' is not a size"),
        ("tiers", [{"medium": "MEM"}], "tier 1: quota is missing"),
        ("tiers", [{"path": "/a", "quota": 1, "free_space_ratio": "x"}], "free_space_ratio 'x' is"),
        ("tiers", [{"path": "/a", "quota": 1, "free_space_ratio": 1}], "free_space_ratio 1.0"),
    ],
)
def test_wrong_options_say_what_is_wrong(name: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        VolumeOptions.from_options({name: value}, HOME)


def test_tiers_at_length() -> None:
    tiers = [
        {"medium": "MEM", "quota": "1Gi"},
        {"medium": "MEM", "path": "/dev/shm/jc", "quota": "40Gi", "free_space_ratio": "0.2"},
        {"path": "/a, /b", "quota": "1Gi, 2Gi"},
        {"medium": "HDD", "path": [Path("/c"), "/d"], "quota": "4Gi"},
    ]
    gib = 1 << 30
    expected = (
        TierOptions((), gib),
        TierOptions((("/dev/shm/jc", 40 * gib),), 0, 0.2),
        TierOptions((("/a", gib), ("/b", 2 * gib)), 0),
        TierOptions((("/c", 2 * gib), ("/d", 2 * gib)), 0),
    )
    assert options(tiers=tiers).tiers == expected
    as_text = json.dumps([*tiers[:3], {**tiers[3], "path": "/c,/d"}])
    assert options(tiers=as_text).tiers == expected
    assert options(tiers=[]) == options()
    assert pickle.loads(pickle.dumps(options(tiers=tiers))) == options(tiers=tiers)


@pytest.mark.parametrize("short", ["cache_dir", "cache_size", "memory_size"])
def test_one_form_of_tiers_at_a_time(short: str) -> None:
    tiers = [{"path": "/a", "quota": "1Gi"}]
    value = "/b" if short == "cache_dir" else "1Gi"
    with pytest.raises(ConfigError, match=f"options tiers and {short} exclude each other"):
        options(tiers=tiers, **{short: value})
    assert options(tiers=tiers, **{short: None}).tiers
    assert options(tiers=[], **{short: value}).tiers == ()


def test_keys_of_a_new_volume_come_from_the_environment() -> None:
    keys = {"ACCESS_KEY": "ea", "SECRET_KEY": "es", "SESSION_TOKEN": "et"}
    assert storage_keys(keys) == {"access_key": "ea", "secret_key": "es", "session_token": "et"}
    assert storage_keys({"ACCESS_KEY": ""}) == {}


def test_keys_of_an_open_volume_do_not_come_from_the_environment() -> None:
    parsed = options({**HOME, "ACCESS_KEY": "ea", "SECRET_KEY": "es"})
    assert (parsed.access_key, parsed.secret_key) == ("", "")


def test_secrets_are_not_shown() -> None:
    got = options(secret_key="hush-1", session_token="hush-2")
    assert "hush" not in repr(got)
    assert pickle.loads(pickle.dumps(got)) == got
    with pytest.raises(ConfigError) as caught:
        options(secret_key=b"hush")
    assert "hush" not in str(caught.value)


@given(st.integers(0, 10**9), st.sampled_from("KMGTPE"), st.sampled_from(["", "i", "B", "iB"]))
def test_sizes(number: int, unit: str, rest: str) -> None:
    bytes_ = number << (10 * ("KMGTPE".index(unit) + 1))
    assert parse_size(f"{number}{unit}{rest}") == bytes_
    assert parse_size(f" {number} {unit.lower()}{rest} ") == bytes_
    assert parse_size(number) == parse_size(str(number)) == number << 20
    assert parse_size(f"{number}B") == number


@given(st.integers(0, 10**12))
def test_times(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_time(f"{milliseconds}ms") == pytest.approx(seconds)
    assert parse_time(seconds) == pytest.approx(seconds)
    whole, rest = divmod(milliseconds, 1000)
    minutes, whole = divmod(whole, 60)
    assert parse_time(f"{minutes}m{whole}s{rest}ms") == pytest.approx(seconds)


def test_fractions() -> None:
    assert parse_size("1.5GiB") == 3 << 29
    assert parse_size(0.5) == 1 << 19
    assert parse_time("1.5h") == 5400


@given(st.one_of(st.text(max_size=20), st.floats(), st.integers(), st.booleans(), st.binary()))
def test_parsers_refuse_with_one_error_only(value: Any) -> None:
    for parse in (parse_size, parse_time):
        try:
            assert parse(value) >= 0
        except ValueError:
            pass


# -- addresses -------------------------------------------------------------------------


def test_sqlite_addresses() -> None:
    absolute = parse_meta("sqlite3:///data/abs.db", {})
    assert (absolute.scheme, absolute.location) == ("sqlite3", "/data/abs.db")
    assert parse_meta("sqlite3://rel.db", {}).location == "rel.db"
    assert parse_meta("sqlite3://rel.db", {}).absolute().location == str(Path.cwd() / "rel.db")
    prefixed = parse_meta("sqlite3:///a.db?table_prefix=abc", {"META_PASSWORD": "hush"})
    assert (prefixed.table_prefix, prefixed.password) == ("abc", "")
    assert str(prefixed) == prefixed.text == "sqlite3:///a.db?table_prefix=abc"
    assert prefixed.absolute() == prefixed


@pytest.mark.parametrize(
    ("url", "text", "shown"),
    [
        (
            "redis://:hu%40sh@host:6379/1",
            "redis://host:6379/1",
            "redis://:****@host:6379/1",
        ),
        (
            "postgres://me:hu@sh@host/db?sslmode=disable",
            "postgres://me@host/db?sslmode=disable",
            "postgres://me:****@host/db?sslmode=disable",
        ),
        (
            "mysql://me:hu@sh@(host:3306)/db",
            "mysql://me@(host:3306)/db",
            "mysql://me:****@(host:3306)/db",
        ),
    ],
)
def test_addresses_with_a_password(url: str, text: str, shown: str) -> None:
    address = parse_meta(url, {})
    assert address.password == "hu@sh"
    assert (address.text, str(address), address.masked()) == (text, shown, shown)
    assert "hu" not in repr(address)
    assert mask_url(url) == shown
    bare = parse_meta(text, {})
    assert (bare.password, str(bare)) == ("", text)
    assert parse_meta(text, {"META_PASSWORD": "hu@sh"}) == address


def test_passwords_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    environ = {"META_PASSWORD_FILE": str(file)}
    assert parse_meta("mysql://me@(host)/db", environ).password == "from a file"
    environ["META_PASSWORD"] = "meta"
    assert parse_meta("redis://host/1", environ).password == "meta"
    environ["REDIS_PASSWORD"] = "redis"
    assert parse_meta("rediss://host/1", environ).password == "redis"
    assert parse_meta("postgres://me@host/db", environ).password == "meta"
    assert parse_meta("redis://:url@host/1", environ).password == "url"
    with pytest.raises(ConfigError, match="META_PASSWORD_FILE: /none/secret cannot be read"):
        parse_meta("redis://host/1", {"META_PASSWORD_FILE": "/none/secret"})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "expected sqlite3:///absolute.db"),
        ("/just/a/path", "expected sqlite3:///absolute.db"),
        ("tikv://host/x", "expected sqlite3:///absolute.db, redis"),
        ("sqlite3://", "path of the database is missing"),
        ("sqlite3://a.db?_journal=WAL", "unknown option '_journal'"),
        ("sqlite3://a.db?table_prefix=a;b", "table_prefix takes"),
        ("redis://", "the host is missing"),
        ("postgres://me:hush@/db", "the host is missing"),
        ("me:hush@host/db", "expected sqlite3"),
        ("tikv://me:hush@host/db", "expected sqlite3"),
        ("postgres://host/db?password=hush", "META_PASSWORD"),
        ("mysql://me:hu?table_prefix=-@hush@(h)/db?table_prefix=-", "table_prefix"),
    ],
)
def test_malformed_addresses(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_meta(url, {})
    assert "hush" not in str(caught.value)


@given(st.sampled_from(["redis", "postgres", "mysql", "s3", "https"]), st.text(min_size=1))
def test_no_password_survives_masking(scheme: str, password: str) -> None:
    shown = mask_url(f"{scheme}://user:{password}@host/db")
    assert shown == f"{scheme}://user:****@host/db"


def test_masking_leaves_what_holds_no_password() -> None:
    for url in (
        "sqlite3:///a:b@c.db",
        "redis://host:6379/1",
        "juicecache://v/a",
        "postgres://u@h/d",
    ):
        assert mask_url(url) == url
    assert mask_url("https://h/b?secret_key=x&a=1") == "https://h/b?secret_key=****&a=1"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("juicecache://vol/a/b", ("vol", "/a/b")),
        ("jc://vol", ("vol", "/")),
        ("jc://vol/", ("vol", "/")),
        ("jc://vol/a?b#c", ("vol", "/a?b#c")),
    ],
)
def test_volume_urls(url: str, parts: tuple[str, str]) -> None:
    assert parse_volume_url(url) == parts


@pytest.mark.parametrize("url", ["vol/a", "s3://vol/a", "jc://", "jc:///a"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="juicecache://VOLUME/path"):
        parse_volume_url(url)


def test_the_passphrase_comes_from_the_environment() -> None:
    assert rsa_passphrase({"JFS_RSA_PASSPHRASE": "words"}) == "words"
    assert rsa_passphrase({}) == ""


# -- the list of volumes ---------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> dict[str, str]:
    return {"JUICECACHE_CONFIG": str(tmp_path / "own" / "volumes.toml")}


def test_where_an_address_comes_from(listed: dict[str, str]) -> None:
    remember_volume("mine", "sqlite3:///list.db", listed)
    env = {**listed, "JUICECACHE_META": "sqlite3:///env.db"}
    assert find_volume("mine", "sqlite3:///given.db", env) == "sqlite3:///given.db"
    assert find_volume("mine", environ=env) == "sqlite3:///env.db"
    assert find_volume("mine", environ=listed) == "sqlite3:///list.db"


def test_a_volume_goes_off_the_list_with_its_own_address(listed: dict[str, str]) -> None:
    remember_volume("photos", "sqlite3:///a.db", listed)
    remember_volume("videos", "sqlite3:///b.db", listed)
    assert not forget_volume("photos", "sqlite3:///b.db", listed)
    assert forget_volume("photos", "sqlite3:///a.db", listed)
    assert not forget_volume("photos", "sqlite3:///a.db", listed)
    assert list_volumes(listed) == {"videos": "sqlite3:///b.db"}


def test_an_unknown_volume_names_the_known_ones_and_the_ways(listed: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="known: none"):
        find_volume("other", environ=listed)
    with pytest.raises(ConfigError, match="no volume is named"):
        find_volume("", environ=listed)
    remember_volume("mine", "sqlite3:///a.db", listed)
    remember_volume("yours", "sqlite3:///b.db", listed)
    with pytest.raises(ConfigError, match="known: mine, yours") as caught:
        find_volume("other", environ=listed)
    for way in ("'meta'", "JUICECACHE_META", listed["JUICECACHE_CONFIG"]):
        assert way in str(caught.value)


def test_the_list_is_in_the_configuration_folder(tmp_path: Path) -> None:
    remember_volume("v", "sqlite3:///a.db", {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (tmp_path / "juicecache" / "volumes.toml").exists()
    remember_volume("v", "sqlite3:///a.db", {"HOME": str(tmp_path)})
    assert (tmp_path / ".config" / "juicecache" / "volumes.toml").exists()


def test_the_list_is_for_its_user_alone(listed: dict[str, str]) -> None:
    path = Path(listed["JUICECACHE_CONFIG"])
    remember_volume("v", "sqlite3:///a.db", listed)
    path.chmod(0o644)
    remember_volume("w", "sqlite3:///b.db", listed)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["volumes.toml"]


def test_a_password_is_not_stored(listed: dict[str, str]) -> None:
    stored = remember_volume("v", "postgres://me:hush@host/db", listed)
    assert (stored.password, stored.text) == ("hush", "postgres://me@host/db")
    assert "hush" not in Path(listed["JUICECACHE_CONFIG"]).read_text()
    url = find_volume("v", environ=listed)
    assert parse_meta(url, {"META_PASSWORD": "hush"}) == parse_meta(
        "postgres://me:hush@host/db", {}
    )


def test_a_relative_path_is_stored_absolute(
    listed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    remember_volume("v", "sqlite3://meta.db", listed)
    assert find_volume("v", environ=listed) == f"sqlite3://{tmp_path}/meta.db"


PRINTABLE = st.text(min_size=1, max_size=20).filter(str.isprintable)


@given(st.dictionaries(PRINTABLE, PRINTABLE.filter(lambda text: "?" not in text), max_size=4))
def test_any_name_and_path_comes_back(
    tmp_path_factory: pytest.TempPathFactory, names: dict[str, str]
) -> None:
    environ = {"JUICECACHE_CONFIG": str(tmp_path_factory.mktemp("list") / "volumes.toml")}
    for name, path in names.items():
        remember_volume(name, f"sqlite3:///{path}", environ)
    expected = {name: f"sqlite3://{os.path.abspath('/' + path)}" for name, path in names.items()}
    assert list_volumes(environ) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('volumes = "s3cr3t"', r"\[volumes\]"),
        ("[volumes]\nv = 3", r"\[volumes\]"),
        ("s3cr3t =", "not a TOML file"),
        (b"\xff", "not a TOML file"),
    ],
    ids=["no table", "no address", "no TOML", "no text"],  # the path would show the secret
)
def test_a_damaged_list(listed: dict[str, str], text: str | bytes, says: str) -> None:
    path = Path(listed["JUICECACHE_CONFIG"])
    path.parent.mkdir()
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(content)
    for call in (lambda: find_volume("v", environ=listed),
                 lambda: remember_volume("v", "sqlite3:///a.db", listed)):  # fmt: skip
        with pytest.raises(ConfigError, match=says) as caught:
            call()
        assert "s3cr3t" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_list_that_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"JUICECACHE_CONFIG": str(tmp_path / "file" / "volumes.toml")}
    with pytest.raises(ConfigError, match=r"file/volumes\.toml"):
        remember_volume("v", "sqlite3:///a.db", environ)


def test_what_cannot_stand_in_toml_is_refused(listed: dict[str, str]) -> None:
    for name, path in (("a\nb", "a"), ("v", "\udcff")):
        with pytest.raises(ConfigError, match="printable"):
            remember_volume(name, f"sqlite3:///{path}", listed)
    assert list_volumes(listed) == {}


def test_the_file_is_plain_toml(listed: dict[str, str]) -> None:
    remember_volume('a "quoted\\" näme', "sqlite3:///a.db", listed)
    with open(listed["JUICECACHE_CONFIG"], "rb") as file:
        assert tomllib.load(file) == {"volumes": {'a "quoted\\" näme': "sqlite3:///a.db"}}


def test_importing_is_cheap() -> None:
    code = (
        "import sys, juicecache.config; "
        "print(sorted({'tomllib', 'difflib', 'asyncio', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["a" * 65, "a b", "a/b", "caf\u00e9", "a\n", "a\x00"])
def test_a_group_cannot_be_called_so(name: str) -> None:
    with pytest.raises(ConfigError, match="cache_group"):
        VolumeOptions.from_options({"cache_group": name})


@pytest.mark.parametrize("name", ["a", "Zone-1.b_c", "a" * 64])
def test_a_group_can_be_called_so(name: str) -> None:
    assert VolumeOptions.from_options({"cache_group": name}).cache_group == name


@pytest.mark.parametrize(
    ("text", "addresses", "service"),
    [
        ("10.0.0.1:9566", (("10.0.0.1", 9566),), None),
        ("a:1, b:2,a:1", (("a", 1), ("b", 2)), None),
        ("[fd00::1]:80", (("fd00::1", 80),), None),
        ("dns:workers.default.svc:9566", (), ("workers.default.svc", 9566)),
    ],
)
def test_members_are_addresses_or_a_name(text: str, addresses: object, service: object) -> None:
    options = VolumeOptions.from_options({"cache_group": "g", "group_members": text})
    assert options.group_members == (addresses, service)


@pytest.mark.parametrize(
    "text", ["a", "a:", ":1", "a:0", "a:65536", "a:1,,b:2", "dns:a", "a:\u0661"]
)
def test_other_members_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="group_members"):
        VolumeOptions.from_options({"cache_group": "g", "group_members": text})


def test_options_of_a_group_need_each_other() -> None:
    for options in (
        {"group_weight": 1},
        {"group_members": "a:1"},
        {"cert_file": "a"},
        {"key_file": "a"},
        {"ca_file": "a"},
    ):
        with pytest.raises(ConfigError, match=f"option.*{next(iter(options))}"):
            VolumeOptions.from_options(options)
    assert VolumeOptions.from_options({"cache_group": "g", "group_weight": 0}).group_weight == 0
    assert VolumeOptions.from_options({"cache_group": "g"}).group_weight is None


def test_the_secret_of_a_group_comes_from_the_environment_and_is_not_shown() -> None:
    environ = {"JUICECACHE_GROUP_SECRET": "hush"}
    options = VolumeOptions.from_options({"cache_group": "g"}, environ)
    assert options.group_secret == "hush"
    assert "hush" not in repr(options)
    assert VolumeOptions.from_options({}, environ).group_secret == ""
