"""What Bucket addresses mean."""

from __future__ import annotations

import pytest

from juicecache.errors import ConfigError
from juicecache.objects.kinds import ForeignAddress, LocalAddress, S3Address, locate


@pytest.mark.parametrize(
    ("kind", "bucket", "endpoint", "name", "region", "path_style"),
    [
        ("s3", "http://127.0.0.1:8333/b", "http://127.0.0.1:8333", "b", "", True),
        ("s3", "http://localhost:9000/b/", "http://localhost:9000", "b", "", True),
        ("s3", "https://b.s3.us-east-2.amazonaws.com", "https://s3.us-east-2.amazonaws.com", "b",
         "us-east-2", False),
        ("s3", "https://b.s3-us-west-2.amazonaws.com", "https://s3-us-west-2.amazonaws.com", "b",
         "us-west-2", False),
        ("s3", "https://a.b.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com",
         "a.b", "eu-west-1", False),
        ("s3", "https://s3.amazonaws.com/b", "https://s3.amazonaws.com", "b", "us-east-1", False),
        ("s3", "https://b.s3.amazonaws.com", "https://s3.amazonaws.com", "b", "us-east-1", False),
        ("s3", "https://b.s3.cn-north-1.amazonaws.com.cn",
         "https://s3.cn-north-1.amazonaws.com.cn", "b", "cn-north-1", False),
        ("s3", "https://s3.us-gov-west-1.amazonaws.com/b",
         "https://s3.us-gov-west-1.amazonaws.com", "b", "us-gov-west-1", False),
        ("s3", "mybucket", "", "mybucket", "", False),
        ("s3", "b.s3.us-east-2.amazonaws.com", "https://s3.us-east-2.amazonaws.com", "b",
         "us-east-2", False),
        ("s3", "b.storage.example.com", "http://storage.example.com", "b", "", True),
        ("s3", "https://id.r2.cloudflarestorage.com/b", "https://id.r2.cloudflarestorage.com",
         "b", "", True),
        ("s3", "https://b.oss-cn-beijing.aliyuncs.com", "https://oss-cn-beijing.aliyuncs.com",
         "b", "cn-beijing", False),
        ("minio", "http://minio.local:9000/b?tls-insecure-skip-verify=true",
         "http://minio.local:9000", "b", "", True),
        ("oss", "https://b.oss-cn-hangzhou.aliyuncs.com", "https://oss-cn-hangzhou.aliyuncs.com",
         "b", "cn-hangzhou", False),
        ("oss", "https://b.oss-cn-hangzhou-internal.aliyuncs.com",
         "https://oss-cn-hangzhou-internal.aliyuncs.com", "b", "cn-hangzhou", False),
        ("cos", "https://b-125.cos.ap-beijing.myqcloud.com", "https://cos.ap-beijing.myqcloud.com",
         "b-125", "ap-beijing", False),
        ("obs", "https://b.obs.cn-north-4.myhuaweicloud.com",
         "https://obs.cn-north-4.myhuaweicloud.com", "b", "cn-north-4", False),
        ("bos", "https://b.bj.bcebos.com", "https://s3.bj.bcebos.com", "b", "bj", False),
        ("tos", "https://b.tos-cn-beijing.volces.com", "https://tos-s3-cn-beijing.volces.com",
         "b", "cn-beijing", False),
        ("wasabi", "https://b.s3.eu-central-1.wasabisys.com",
         "https://s3.eu-central-1.wasabisys.com", "b", "eu-central-1", False),
        ("scw", "https://b.s3.nl-ams.scw.cloud", "https://s3.nl-ams.scw.cloud", "b", "nl-ams",
         False),
        ("space", "https://b.nyc3.digitaloceanspaces.com", "https://nyc3.digitaloceanspaces.com",
         "b", "nyc3", False),
    ],
)  # fmt: skip
def test_s3_addresses(
    kind: str, bucket: str, endpoint: str, name: str, region: str, path_style: bool
) -> None:
    found = locate(kind, bucket)
    assert isinstance(found, S3Address)
    assert (found.endpoint, found.bucket) == (endpoint, name)
    assert (found.region, found.path_style) == (region, path_style)
    assert found.verify_tls == ("insecure" not in bucket)


@pytest.mark.parametrize("bucket", ["http://127.0.0.1:9000", "https://s3.amazonaws.com", "http://"])
def test_addresses_without_a_bucket(bucket: str) -> None:
    with pytest.raises(ConfigError):
        locate("s3", bucket)


def test_other_kinds() -> None:
    assert locate("file", "/var/jfs") == LocalAddress("/var/jfs/")
    found = locate("wasb", "https://container.core.windows.net", "account", "the-key")
    assert isinstance(found, ForeignAddress)
    assert (found.protocol, found.root) == ("abfs", "container/")
    assert found.options["account_name"] == "account"
    assert "the-key" not in repr(found)
    with pytest.raises(ConfigError, match="'ceph'"):
        locate("ceph", "ceph://pool")


@pytest.mark.parametrize(
    ("kind", "bucket"),
    [
        ("s3", "https://user:hunter2@"),
        ("minio", "http://user:hunter2@localhost:9000"),
        ("minio", "user:hunter2@localhost"),
    ],
)
def test_a_password_in_an_address_is_not_in_the_error(kind, bucket):
    with pytest.raises(ConfigError) as caught:
        locate(kind, bucket)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_an_address_is_shown_nowhere():
    from juicecache.config import VolumeOptions
    from juicecache.model.setting import Setting
    from juicecache.objects.build import StoreConfig, open_store

    bucket = "http://user:hunter2@localhost:9000/b%d"
    setting = Setting.create(
        "volume", "6fa1c0de-0000-4000-8000-000000000000", storage="minio", bucket=bucket, shards=2
    )
    config = StoreConfig("minio", bucket, shards=2)
    for text in (
        repr(setting),
        setting.to_json(),
        repr(config),
        open_store(config).describe(),
        repr(VolumeOptions.from_options({"bucket": bucket})),
    ):
        assert "hunter2" not in text
    assert "****@localhost:9000/b%d" in setting.to_json()
    assert "hunter2" in setting.to_json(include_password=True)
    assert "hunter2" in setting.to_text(lambda: bytes(12))
