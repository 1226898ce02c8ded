"""Which store serves a storage kind, and what its Bucket address means. Pure.

Bucket addresses are the official client's: ``https://BUCKET.ENDPOINT`` or
``https://ENDPOINT/BUCKET`` for whatever speaks S3, ``BUCKET`` alone for Amazon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from juicecache.addresses import mask_bucket
from juicecache.errors import ConfigError

# fmt: off
S3_KINDS = frozenset((
    "s3", "minio", "oss", "cos", "obs", "ks3", "bos", "tos", "eos", "ufile", "qingstor", "qiniu",
    "scw", "space", "wasabi", "jss", "speedy", "oos", "ibmcos", "b2",
))
# fmt: on
"""Kinds that are reached by the S3 protocol. IBM wants HMAC keys for it, Backblaze and UCloud
an S3 endpoint in the address."""

_VIRTUAL_KINDS = frozenset(
    ("oss", "cos", "obs", "tos", "bos", "ks3", "eos", "qiniu", "scw", "space", "wasabi", "jss")
)
_VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com", ".volces.com", ".ivolces.com", ".bcebos.com")
"""Hosts that refuse a bucket in the path, whatever the kind."""

_REGIONS = (
    r"(?:^|\.)s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?$",
    r"(?:^|\.)([a-z]{2}(?:-[a-z]+)+-\d)\.vpce\.amazonaws\.com(?:\.cn)?$",
    r"(?:^|\.)oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$",
    r"(?:^|\.)cos\.([a-z0-9-]+)\.myqcloud\.com$",
    r"(?:^|\.)obs\.([a-z0-9-]+)\.myhuaweicloud\.(?:com|eu)$",
    r"(?:^|\.)tos-s3-([a-z0-9-]+)\.i?volces\.com$",
    r"(?:^|\.)s3\.([a-z0-9-]+)\.(?:bcebos|wasabisys|backblazeb2|qingstor|jcloudcs)\.com$",
    r"(?:^|\.)s3\.([a-z0-9-]+)\.scw\.cloud$",
    r"(?:^|\.)s3\.([a-z0-9-]+)(?:\.[a-z]+)?\.cloud\.ovh\.net$",
    r"(?:^|\.)([a-z0-9-]+)\.digitaloceanspaces\.com$",
    r"(?:^|\.)s3[.-]([a-z0-9-]+)\.qiniucs\.com$",
    r"\.compat\.objectstorage\.([a-z0-9-]+)\.oraclecloud\.com$",
)
_ADDRESS = re.compile(r"^(localhost|\d+\.\d+\.\d+\.\d+|\[.*\])$")
_AMAZON = re.compile(r"^(?:(?P<bucket>.+)\.)?(?P<endpoint>s3[.-].*amazonaws\.com(?:\.cn)?)$")


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A directory, ending in ``/``."""

    folder: str


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket; an empty ``endpoint`` is Amazon's, an empty ``region`` the driver's choice."""

    endpoint: str
    bucket: str
    region: str
    path_style: bool
    verify_tls: bool = True


@dataclass(frozen=True, slots=True)
class ForeignAddress:
    """A folder of an fsspec file system.

    Attributes
    ----------
    package
        What to install for ``protocol``.
    root
        Stands before every name; ends in ``/`` unless empty.
    options
        For the file system's constructor; may hold a secret.
    atomic_put
        A file under its own name appears only when it is whole.
    """

    protocol: str
    package: str
    root: str
    options: dict[str, object] = field(default_factory=dict, repr=False)
    atomic_put: bool = False


def locate(
    storage: str, bucket: str, access_key: str = "", secret_key: str = ""
) -> LocalAddress | S3Address | ForeignAddress:
    """Return what ``bucket`` means for a storage kind.

    Raises
    ------
    ConfigError
        A kind that cannot be served, or an address without a bucket.
    """
    kind = storage.lower()
    if kind == "file":
        folder = bucket.removeprefix("file://")
        return LocalAddress(folder if folder.endswith("/") else folder + "/")
    if kind in S3_KINDS:
        return _s3(kind, bucket)
    return _foreign(kind, bucket, access_key, secret_key)


def _s3(kind: str, bucket: str) -> S3Address:
    # The official client's rule for addresses without a scheme: Amazon and names are secure.
    if "://" not in bucket:
        host_given = bucket.partition("/")[0]
        secure = (
            "." not in host_given or "amazonaws.com" in host_given or kind not in ("s3", "minio")
        )
        bucket = f"{'https' if secure else 'http'}://{bucket}"
    parts = urlsplit(bucket)
    host, name = parts.netloc.rpartition("@")[2], parts.path.strip("/").partition("/")[0]
    verify = parse_qs(parts.query).get("tls-insecure-skip-verify", [""])[0].lower() != "true"
    if not host:
        raise ConfigError(f"the bucket address {mask_bucket(bucket)!r} has no host")
    amazon = _AMAZON.match(host)
    if not name and "." not in host and kind == "s3" and ":" not in host:
        return S3Address("", host, "", path_style=False)
    if not name:
        name, host = (amazon["bucket"] or "", amazon["endpoint"]) if amazon else _split(host)
    if not name or not host:
        raise ConfigError(
            f"no bucket in the address of {kind} storage: {mask_bucket(bucket)!r} "
            "(https://BUCKET.ENDPOINT or https://ENDPOINT/BUCKET)"
        )
    host = _s3_host(kind, host)
    return S3Address(
        f"{parts.scheme}://{host}", name, _region(host), _path_style(kind, host), verify
    )


def _split(host: str) -> tuple[str, str]:
    """Split ``BUCKET.ENDPOINT``; an address or ``localhost`` holds no bucket."""
    if _ADDRESS.match(host.rpartition(":")[0] or host) or "." not in host:
        return "", host
    name, _, rest = host.partition(".")
    return name, rest


def _s3_host(kind: str, host: str) -> str:
    """Return the host that speaks S3 where the kind's own protocol has another."""
    if kind == "bos" and re.fullmatch(r"[a-z0-9-]+\.bcebos\.com", host):
        return f"s3.{host}"
    if kind == "qingstor" and re.fullmatch(r"[a-z0-9-]+\.qingstor\.com", host):
        return f"s3.{host}"
    if kind == "tos" and host.startswith("tos-") and not host.startswith("tos-s3-"):
        return f"tos-s3-{host[len('tos-') :]}"
    if kind == "ufile" and host.endswith(".ufileos.com") and not host.startswith("s3-"):
        return f"s3-{host}"
    return host


def _path_style(kind: str, host: str) -> bool:
    bare, _, port = host.partition(":")
    if kind == "minio" or port or _ADDRESS.match(host):
        return True
    return not (kind in _VIRTUAL_KINDS or "amazonaws.com" in bare or bare.endswith(_VIRTUAL_ONLY))


def _region(host: str) -> str:
    if host in ("s3.amazonaws.com", "s3-external-1.amazonaws.com"):
        return "us-east-1"
    for pattern in _REGIONS:
        found = re.search(pattern, host)
        if found:
            return found[1]
    return ""


def _foreign(kind: str, bucket: str, access_key: str, secret_key: str) -> ForeignAddress:
    host, _, path = (
        bucket.partition("://")[2].partition("/") if "://" in bucket else (bucket.partition("/"))
    )
    below = path.strip("/") + "/" if path.strip("/") else ""
    if kind == "gs":
        return ForeignAddress("gs", "gcsfs", f"{host.partition('.')[0]}/", atomic_put=True)
    if kind == "wasb":
        account: dict[str, object] = {"account_name": access_key, "account_key": secret_key}
        if not access_key:
            account = {}
        return ForeignAddress("abfs", "adlfs", f"{host.partition('.')[0]}/", account, True)
    if kind == "hdfs":
        name, _, port = host.partition(":")
        options: dict[str, object] = {"host": name, "port": int(port or 8020)}
        if access_key:
            options["user"] = access_key
        return ForeignAddress("hdfs", "pyarrow", f"/{below}", options)
    if kind == "sftp":
        name, _, folder = bucket.partition(":")
        options = {"host": name, "username": access_key or None, "password": secret_key or None}
        return ForeignAddress("sftp", "paramiko", folder.rstrip("/") + "/", options)
    if kind == "webdav":
        auth = (access_key, secret_key) if access_key else None
        scheme = bucket.partition("://")[0] if "://" in bucket else "http"
        options = {"base_url": f"{scheme}://{host}", "auth": auth}
        return ForeignAddress("webdav", "webdav4[fsspec]", below, options)
    raise ConfigError(f"juicecache cannot reach storage of the kind {kind!r}")
