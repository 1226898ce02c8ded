"""The setting record: against a real example, by round trips, and against the official client."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import ConfigError, VolumeFormatError
from juicecache.model.setting import REMOVED, Setting, with_owners_counted

UUID = "5dba350c-d47f-4300-93a6-71cdb32c57e2"
REAL = """{
"Name": "fplain",
"UUID": "5dba350c-d47f-4300-93a6-71cdb32c57e2",
"Storage": "s3",
"Tiers": {
"0": {
"ID": 0,
"StorageClass": "",
"Tag": ""
}
},
"Bucket": "http://127.0.0.1:8333/fmtspec",
"AccessKey": "a",
"SecretKey": "M9oAcYAhk5fpdpQn+VMsLDL5zj12i+oW7mO+xcc=",
"BlockSize": 4096,
"Compression": "none",
"EncryptAlgo": "aes256gcm-rsa",
"KeyEncrypted": true,
"TrashDays": 0,
"MetaVersion": 1,
"MinClientVersion": "1.1.0-A",
"DirStats": true,
"EnableACL": false
}"""
"""Written by the official client, whose secret key is the letter ``b``."""


def nonces() -> bytes:
    return os.urandom(12)


def record(**changes: object) -> str:
    """The real record with members changed; None takes one out."""
    document = {**json.loads(REAL), **changes}
    return json.dumps({name: value for name, value in document.items() if value is not None})


def new(**changes: object) -> Setting:
    arguments: dict[str, object] = {"storage": "file", "bucket": "/objects", **changes}
    return Setting.create("myvolume", UUID, **arguments)  # type: ignore[arg-type]


def test_the_real_record_opens() -> None:
    setting = Setting.parse(REAL)
    setting.check_open()
    assert (setting.name, setting.uuid, setting.storage) == ("fplain", UUID, "s3")
    assert (setting.access_key, setting.secret_key, setting.encrypted) == ("a", "b", False)
    assert (setting.block_bytes, setting.trash_days, setting.dir_stats) == (4 << 20, 0, True)
    assert setting.write_obstacle() is None
    assert setting.layout.object_name("2_0_4194304") == "fplain/chunks/0/0/2_0_4194304"


def test_the_real_record_is_rewritten_as_it_was() -> None:
    sealed = "M9oAcYAhk5fpdpQn+VMsLDL5zj12i+oW7mO+xcc="
    first_nonce = base64.b64decode(sealed)[:12]
    assert Setting.parse(REAL).to_text(lambda: first_nonce) == REAL


def test_a_change_leaves_everything_else_as_it_was() -> None:
    text = record(Unknown={"kept": [1, None]}, Compression="LZ4", Shards=0, RangerService="r")
    changed = replace(Setting.parse(text), trash_days=7, capacity_bytes=1 << 30)
    written = json.loads(changed.to_text(nonces))
    expected = {**json.loads(text), "TrashDays": 7, "Capacity": 1 << 30}
    assert {**written, "SecretKey": ""} == {**expected, "SecretKey": ""}


def test_a_member_that_becomes_empty_is_left_out() -> None:
    setting = replace(Setting.parse(record(Capacity=5)), capacity_bytes=0, dir_stats=False)
    written = json.loads(setting.to_text(nonces))
    assert "Capacity" not in written
    assert "DirStats" not in written


@given(
    secret_key=st.text(),
    session_token=st.text(max_size=300),
    block=st.integers(6, 14),
    capacity=st.integers(0, 2**63),
    hash_prefix=st.booleans(),
    compression=st.sampled_from(["none", "lz4", "zstd", "LZ4"]),
    storage_class=st.text(alphabet="ABC_", max_size=9),
)
def test_what_is_written_is_read(
    secret_key: str,
    session_token: str,
    block: int,
    capacity: int,
    hash_prefix: bool,
    compression: str,
    storage_class: str,
) -> None:
    setting = new(
        secret_key=secret_key,
        session_token=session_token,
        block_kib=1 << block,
        capacity_bytes=capacity,
        hash_prefix=hash_prefix,
        compression=compression,
        storage_class=storage_class,
    )
    text = setting.to_text(nonces)
    again = Setting.parse(text)
    assert again == setting
    assert Setting.parse(again.to_text(nonces)) == setting


def test_every_secret_takes_a_nonce_of_its_own() -> None:
    taken: list[bytes] = []

    def nonce() -> bytes:
        taken.append(nonces())
        return taken[-1]

    text = new(secret_key="alpha", session_token="beta", encrypt_key="gamma").to_text(nonce)
    assert len(set(taken)) == 3
    assert not any(secret in text for secret in ("alpha", "beta", "gamma"))


def test_secrets_that_the_record_keeps_in_clear_stay_so() -> None:
    setting = Setting.parse(record(KeyEncrypted=None, SecretKey="clear"))
    assert setting.secret_key == "clear"
    assert json.loads(setting.to_text(nonces))["SecretKey"] == "clear"


def test_no_secret_is_shown() -> None:
    setting = new(secret_key="hush-1", session_token="hush-2", encrypt_key="hush-3")
    parsed = Setting.parse(setting.to_text(nonces))
    in_clear = Setting.parse(record(KeyEncrypted=False, SecretKey="hush-4"))
    for shown in (repr(setting), repr(parsed), repr(in_clear), repr(in_clear.raw)):
        assert "hush" not in shown
    people = json.loads(parsed.to_json())
    assert {people[n] for n in ("SecretKey", "SessionToken", "EncryptKey")} == {REMOVED}
    assert "SecretKey" not in json.loads(new().to_json())
    assert json.loads(parsed.to_json(include_password=True))["SecretKey"] == "hush-1"


def test_a_removed_secret_is_an_error_only_when_it_is_needed() -> None:
    setting = Setting.parse(record(SecretKey=REMOVED))
    assert json.loads(setting.to_text(nonces))["SecretKey"] == REMOVED
    setting.check_secrets(given=("secret_key",))
    Setting.parse(REAL).check_secrets()
    with pytest.raises(VolumeFormatError, match="secret_key was removed"):
        setting.check_secrets()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not formatted"),
        (" \n", "not formatted"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "the name ''"),
        (record(Name="a/b"), "the name 'a/b'"),
        (record(UUID="../../etc"), "the UUID"),
        (record(UUID=None, SecretKey=None), "the UUID"),
        (record(BlockSize=4000), "4000 KiB"),
        (record(BlockSize=32), "32 KiB"),
        (record(BlockSize=32768), "32768 KiB"),
        (record(BlockSize="4096"), "BlockSize is a str"),
        (record(TrashDays=True), "TrashDays is a bool"),
        (record(TrashDays=-1), "TrashDays of -1"),
        (record(Capacity=2**64), "Capacity"),
        (record(DirStats=1), "DirStats is a int"),
        (record(Compression="gzip"), "'gzip'"),
        (record(Tiers=[]), "Tiers"),
        (record(Tiers={"0": 3}), "Tiers"),
        (record(Tiers={"0": {"StorageClass": 3}}), "StorageClass"),
        (record(SecretKey="no base64!"), "SecretKey cannot be opened"),
        (record(SecretKey="AAAA"), "SecretKey cannot be opened"),
        (record(SecretKey="M9oAcYAhk5fpdpQn+VMsLDL5zj12i+oW7nO+xcc="), "SecretKey"),
        (record(UUID="5dba350c-d47f-4300-93a6-71cdb32c57e3"), "SecretKey cannot be opened"),
        (record(EncryptAlgo="sm4gcm"), "SM4"),
    ],
)
def test_a_damaged_record_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(VolumeFormatError, match=says):
        Setting.parse(text)


def test_an_error_never_quotes_the_record() -> None:
    with pytest.raises(VolumeFormatError) as caught:
        Setting.parse('{"SecretKey": "hush" "x"}')
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_null_is_absent() -> None:
    setting = Setting.parse('{"SessionToken": null, ' + REAL[1:])
    assert setting.session_token == ""


@pytest.mark.parametrize(
    ("version", "low_admits", "high_admits"),
    [
        ("1.1.0-A", True, False),
        ("1.4.1", True, True),
        ("1.4.1-A", True, False),  # a pre-release comes before its release
        ("1.4.1+build", True, True),
        ("1.4.2-A", False, True),
        ("1.4.2", False, True),
        ("1.10.0", False, True),
        ("2", False, True),
        ("1.4", True, False),
        ("", True, True),
    ],
)
def test_version_gates(version: str, low_admits: bool, high_admits: bool) -> None:
    low = Setting.parse(record(MinClientVersion=version))
    high = Setting.parse(record(MinClientVersion=None, MaxClientVersion=version))
    for setting, admits, word in ((low, low_admits, "newer"), (high, high_admits, "older")):
        if admits:
            setting.check_open()
        else:
            with pytest.raises(VolumeFormatError, match=word):
                setting.check_open()


def test_a_newer_layout_is_refused() -> None:
    with pytest.raises(VolumeFormatError, match="version 2"):
        Setting.parse(record(MetaVersion=2)).check_open()
    with pytest.raises(VolumeFormatError, match="'one'"):
        Setting.parse(record(MinClientVersion="one")).check_open()


@pytest.mark.parametrize("feature", ["ChangeLog", "EnableACL", "UserGroupQuota", "DirStats"])
def test_every_feature_is_kept(feature: str) -> None:
    assert Setting.parse(record(**{feature: True})).write_obstacle() is None


def test_an_encryption_that_we_cannot_do_forbids_writing() -> None:
    setting = Setting.parse(record(EncryptKey="pem", EncryptAlgo="sm4gcm", KeyEncrypted=False))
    setting.check_open()
    assert "sm4gcm" in (setting.write_obstacle() or "")


def test_usage_of_owners_is_switched_on_in_a_record_of_any_kind() -> None:
    text = record(Unknown={"kept": [1, None]}, EncryptAlgo="sm4gcm", SecretKey="sealed")
    changed = with_owners_counted(text)
    assert json.loads(changed) == json.loads(text) | {"UserGroupQuota": True}
    assert with_owners_counted(changed) == changed


def test_storage_class_of_old_and_new_volumes() -> None:
    assert Setting.parse(record(Tiers=None, StorageClass="IA")).storage_class == "IA"
    tiers = {"0": {"ID": 0, "StorageClass": "GLACIER", "Tag": "a=b"}, "1": {"ID": 1}}
    setting = Setting.parse(record(Tiers=tiers, StorageClass="IA"))
    assert setting.storage_class == "GLACIER"
    written = json.loads(replace(setting, storage_class="COLD").to_text(nonces))
    assert written["Tiers"] == {**tiers, "0": {"ID": 0, "StorageClass": "COLD", "Tag": "a=b"}}
    assert written["StorageClass"] == "COLD"
    old = replace(Setting.parse(record(Tiers=None, StorageClass="IA")), storage_class="")
    assert not {"Tiers", "StorageClass"} & set(json.loads(old.to_text(nonces)))


@pytest.mark.parametrize("name", ["abc", "9ab", "aaa--bb", "a" * 63])
def test_names_that_the_official_client_takes(name: str) -> None:
    assert Setting.create(name, UUID, storage="file", bucket="/o").name == name


@pytest.mark.parametrize("name", ["ab", "AbC", "a_b", "abc-", "-abc", "a.bc", "äbc", "a" * 64, ""])
def test_names_that_the_official_client_refuses(name: str) -> None:
    with pytest.raises(ConfigError, match="the name"):
        Setting.create(name, UUID, storage="file", bucket="/o")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"storage": ""}, "storage and a bucket"),
        ({"bucket": "relative"}, "not absolute"),
        ({"block_kib": 100}, "100 KiB"),
        ({"compression": "snappy"}, "snappy"),
        ({"shards": 3}, "%d"),
        ({"encrypt_algo": "sm4gcm"}, "sm4gcm"),
        ({"trash_days": -1}, "TrashDays"),
        ({"trash_days": 10**6}, "days of trash"),
    ],
)
def test_a_new_volume_checks_its_arguments(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        new(**changes)


def client() -> str:
    beside = Path(sys.executable).with_name("juicefs")
    found = shutil.which("juicefs") or (str(beside) if beside.exists() else None)
    if found is None:
        pytest.skip("the official client juicefs is not installed")
    return found


@pytest.fixture
def official(tmp_path: Path) -> Callable[..., str]:
    """Runs a command of the official client on a volume that it formatted."""
    program = client()
    meta = f"sqlite3://{tmp_path}/meta.db"

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, command, meta, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(
        "format", "official", "--storage=file", f"--bucket={tmp_path}/objects/",
        "--access-key=a", "--secret-key=hush", "--session-token=token", "--compress=lz4",
        "--capacity=2", "--inodes=100", "--hash-prefix", "--trash-days=3",
    )  # fmt: skip
    return run


def stored(folder: Path, text: str | None = None) -> str:
    """The record in the database, after putting ``text`` there."""
    with closing(sqlite3.connect(folder / "meta.db")) as database, database:
        if text is not None:
            database.execute("UPDATE jfs_setting SET value = ? WHERE name = 'format'", (text,))
        row = database.execute("SELECT value FROM jfs_setting WHERE name = 'format'").fetchone()
    assert isinstance(row[0], str)
    return row[0]


@pytest.mark.service
def test_the_official_clients_record(official: Callable[..., str], tmp_path: Path) -> None:
    text = stored(tmp_path)
    setting = Setting.parse(text)
    setting.check_open()
    assert (setting.secret_key, setting.session_token) == ("hush", "token")
    assert (setting.compression, setting.hash_prefix, setting.trash_days) == ("lz4", True, 3)
    assert (setting.capacity_bytes, setting.inodes_max) == (2 << 30, 100)
    rewritten = setting.to_text(nonces)
    # Byte for byte the same but for the nonces: order, spelling and omissions are the client's.
    sealed = ('"SecretKey"', '"SessionToken"')
    assert [line for line in text.split("\n") if not line.startswith(sealed)] == [
        line for line in rewritten.split("\n") if not line.startswith(sealed)
    ]


@pytest.mark.service
def test_the_official_client_accepts_a_rewritten_record(
    official: Callable[..., str], tmp_path: Path
) -> None:
    changed = replace(Setting.parse(stored(tmp_path)), trash_days=5)
    stored(tmp_path, changed.to_text(nonces))
    assert json.loads(official("status"))["Setting"]["TrashDays"] == 5
    # `config` opens the secrets and seals them again when it changes something.
    official("config", "--trash-days=6", "--yes")
    again = Setting.parse(stored(tmp_path))
    assert again == replace(changed, trash_days=6)


@pytest.mark.service
def test_the_official_client_accepts_a_record_that_we_made(
    official: Callable[..., str], tmp_path: Path
) -> None:
    before = Setting.parse(stored(tmp_path))
    ours = Setting.create(
        "official",
        before.uuid,
        storage="file",
        bucket=str(tmp_path / "objects"),
        access_key="a",
        secret_key="hush",
        session_token="token",
        compression="lz4",
        capacity_bytes=2 << 30,
        inodes_max=100,
        hash_prefix=True,
        trash_days=3,
    )
    assert ours == before
    stored(tmp_path, ours.to_text(nonces))
    official("fsck")
    official("config", "--inodes=200", "--yes")
    assert Setting.parse(stored(tmp_path)) == replace(before, inodes_max=200)
