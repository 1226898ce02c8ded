"""S3 and every service that speaks its protocol. The only file that names aiobotocore.

Every PUT carries the CRC-32C of its bytes as user metadata, and every GET of a whole object
is checked against it. Retries belong to the wrapper (see ``retry``), so the driver's are off.
The client opens with the first request, in the process and on the loop that makes it.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import crc32c
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import UNSIGNED
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as EndpointError
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from juicecache.errors import (
    CorruptBlockError,
    JuicecacheError,
    ObjectDeniedError,
    ObjectError,
    ObjectNotFoundError,
    ObjectUnavailableError,
)
from juicecache.objects.store import Buffer, ObjectInfo, ObjectStore

CONNECT_TIMEOUT_S = 10
"""A server that is there accepts within a round trip; the rest is for lost packets."""

REGION_DEFAULT = "us-east-1"
_CHECKSUM = "crc32c"
_DENIED = frozenset(
    ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
)
_BUSY = frozenset(("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"))
_ABSENT = frozenset(("NoSuchKey", "NotFound", "404"))
_PASSING = (
    HTTPClientError,
    EndpointError,
    ResponseParserError,  # a proxy's page in place of the service's answer
    aiohttp.ClientError,
    OSError,  # TimeoutError is one
)
_OURS_ALREADY = frozenset(("BucketAlreadyOwnedByYou", "BucketAlreadyExists"))


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how to talk to it.

    Attributes
    ----------
    endpoint
        A URL without the bucket; empty means Amazon's for the region.
    region
        Empty means the driver's own configuration, else ``us-east-1``.
    access_key
        Empty means the driver's own chain (environment, profile, role); ``anonymous`` signs
        nothing.
    connections
        Size of the connection pool.
    """

    endpoint: str
    bucket: str
    region: str = ""
    path_style: bool = True
    verify_tls: bool = True
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    storage_class: str = ""
    connections: int = 220
    get_timeout_s: float = 60
    put_timeout_s: float = 60


class S3Store(ObjectStore):
    """Objects in one bucket."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._opening: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return bytes ``[start, stop)``; a whole object is checked against its CRC-32C."""
        if stop is not None and stop <= start:
            return b""
        wanted: dict[str, str] = {}
        if start or not (stop is None or stop == length):
            wanted["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            with self._translated(name):
                async with asyncio.timeout(self._options.get_timeout_s):
                    client = await self._client()
                    answer = await client.get_object(
                        Bucket=self._options.bucket, Key=name, **wanted
                    )
                    async with answer["Body"] as stream:
                        _check_length(name, answer, length)
                        content: bytes = await stream.read()
        except _PastTheEndError:
            return b""
        if len(content) != answer["ContentLength"]:
            raise ObjectUnavailableError(name, "the answer ended early")
        if "ContentRange" in answer:
            return content
        recorded = answer["Metadata"].get(_CHECKSUM)
        if recorded is not None and recorded != str(found := crc32c.crc32c(content)):
            raise CorruptBlockError(
                name, f"CRC-32C {recorded}", f"CRC-32C {found}", "object storage"
            )
        return content[start:stop] if wanted else content

    async def put(self, name: str, body: Buffer) -> None:
        """Store ``body`` with its CRC-32C as user metadata."""
        extra = {}
        if self._options.storage_class:
            extra["StorageClass"] = self._options.storage_class
        with self._translated(name):
            async with asyncio.timeout(self._options.put_timeout_s):
                client = await self._client()
                await client.put_object(
                    Bucket=self._options.bucket,
                    Key=name,
                    # Shares the memory of bytes. aiohttp warns of large bodies that are no file.
                    Body=io.BytesIO(body),
                    Metadata={_CHECKSUM: str(crc32c.crc32c(body))},
                    **extra,
                )

    async def delete(self, name: str) -> None:
        """Remove an object; an absent one is fine, an absent bucket is not."""
        try:
            await self._call(name, "delete_object", Key=name)
        except ObjectNotFoundError as error:
            if not isinstance(error, _BucketNotFoundError):
                return
            raise

    async def head(self, name: str) -> ObjectInfo:
        """Return the stored size and time of an object."""
        answer = await self._call(name, "head_object", Key=name)
        return ObjectInfo(name, answer["ContentLength"], _nanoseconds(answer["LastModified"]))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Iterate by name, a page of up to 1,000 a request."""
        place = {"StartAfter": after} if after else {}
        while True:
            answer = await self._call(prefix, "list_objects_v2", Prefix=prefix, **place)
            for row in answer.get("Contents", ()):
                yield ObjectInfo(row["Key"], row["Size"], _nanoseconds(row["LastModified"]))
            if not answer.get("IsTruncated"):
                return
            place = {"ContinuationToken": answer["NextContinuationToken"]}

    async def create(self) -> None:
        """Make the bucket where it is missing."""
        try:
            await self._call("", "head_bucket")
        except ObjectNotFoundError:
            client = await self._client()
            region = client.meta.region_name
            place = {}
            if not self._options.endpoint and region != REGION_DEFAULT:
                place["CreateBucketConfiguration"] = {"LocationConstraint": region}
            try:
                await self._call("", "create_bucket", **place)
            except ObjectError as error:
                cause = error.__cause__
                if not isinstance(cause, ClientError) or _code(cause) not in _OURS_ALREADY:
                    raise

    async def aclose(self) -> None:
        """Close the connections of this process; the next request opens new ones."""
        opening, self._opening = self._opening, None
        if opening is not None and self._loop is asyncio.get_running_loop():
            client = await opening
            await client.__aexit__(None, None, None)

    def describe(self) -> str:
        """Return endpoint and bucket."""
        return f"{self._options.endpoint or 's3:/'}/{self._options.bucket}"

    async def _call(self, name: str, operation: str, **arguments: Any) -> dict[str, Any]:
        with self._translated(name):
            async with asyncio.timeout(self._options.get_timeout_s):
                client = await self._client()
                call = getattr(client, operation)
                answer: dict[str, Any] = await call(Bucket=self._options.bucket, **arguments)
                return answer

    async def _client(self) -> Any:
        """Return the client of this loop; the first caller opens it, others wait for it."""
        loop = asyncio.get_running_loop()
        if self._opening is None or self._loop is not loop or _failed(self._opening):
            self._loop = loop
            self._opening = loop.create_task(self._open())
        # Shielded: a caller that gives up must not cancel the opening for the others.
        return await asyncio.shield(self._opening)

    async def _open(self) -> Any:
        options = self._options
        session = get_session()
        parsers = session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
        anonymous = options.access_key == "anonymous"
        keys = {}
        if options.access_key and not anonymous:
            keys = {
                "aws_access_key_id": options.access_key,
                "aws_secret_access_key": options.secret_key,
                "aws_session_token": options.session_token or None,
            }
        config = AioConfig(
            signature_version=UNSIGNED if anonymous else "s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=max(options.get_timeout_s, options.put_timeout_s),
            max_pool_connections=options.connections,
            retries={"total_max_attempts": 1},
            # The driver builds its own, longer one anew for every request.
            user_agent="juicecache",
            s3={"addressing_style": "path" if options.path_style else "virtual"},
            # Many services reject the trailing checksums that the driver sends by default.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        opened = session.create_client(
            "s3",
            region_name=options.region or session.get_config_variable("region") or REGION_DEFAULT,
            endpoint_url=options.endpoint or None,
            verify=None if options.verify_tls else False,
            config=config,
            **keys,
        )
        client = await opened.__aenter__()
        # Asking before a body costs a round trip a block, and a refusal is rare.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        _clients.add(client)
        return client

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Raise errors of the driver as ours. Servers' own words stay out: they echo requests."""
        try:
            yield
        except JuicecacheError:
            raise
        except ClientError as error:
            raise self._of_answer(name, error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ObjectDeniedError(
                name,
                f"no credentials for {self.describe()}: the volume has none (--access-key or "
                "ACCESS_KEY of 'juicecache format', or the options access_key and secret_key), "
                "nor has the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE)",
            ) from error
        except _PASSING as error:
            kind = type(error).__name__
            raise ObjectUnavailableError(name, f"{kind} at {self.describe()}") from error
        except BotoCoreError as error:
            kind = type(error).__name__
            raise ObjectError(name, f"{kind} at {self.describe()}") from error

    def _of_answer(self, name: str, error: ClientError) -> ObjectError:
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        what = f"{code} (status {status}) from {self.describe()}"
        if code == "NoSuchBucket":
            return _BucketNotFoundError(
                name, f"the bucket {self._options.bucket!r} does not exist at {self.describe()}"
            )
        if code in _ABSENT or status == 404:
            return ObjectNotFoundError(name, f"no such object in {self.describe()}")
        if code in _DENIED or status in (401, 403):
            return ObjectDeniedError(
                name, f"{what}: check the access key, the secret key and the right to this bucket"
            )
        if code == "InvalidRange" or status == 416:
            return _PastTheEndError(name, what)
        if code in _BUSY or status >= 500 or status == 429:
            return ObjectUnavailableError(name, what)
        return ObjectError(name, what)


class _BucketNotFoundError(ObjectNotFoundError):
    """The bucket itself is missing; inside this file only its class matters."""


class _PastTheEndError(ObjectError):
    """A range begins at or behind the end; never leaves this file."""


def _check_length(name: str, answer: dict[str, Any], length: int | None) -> None:
    if length is None:
        return
    whole = str(answer.get("ContentRange", "")).rpartition("/")[2] or answer["ContentLength"]
    if whole != "*" and int(whole) != length:
        raise CorruptBlockError(name, f"{length} bytes", f"{whole} bytes", "object storage")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _timestamp(text: str) -> datetime:
    """Parse what the protocol has: ISO 8601 in bodies, the form of mail in headers.

    The driver's own parser guesses the form, which is a tenth of the time of a small GET.
    """
    return datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000


# One hook for all of them, which cannot be taken back: clients that are gone leave the set.
_clients: weakref.WeakSet[Any] = weakref.WeakSet()


def _keep_in_child() -> None:
    """Keep a forked child from ever finalising the clients of its parent.

    Their connections would unregister themselves from the poll set that the child shares with
    its parent, whose requests would then hang. One more reference is never given back.
    """
    for inherited in list(_clients):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
    _clients.clear()


os.register_at_fork(after_in_child=_keep_in_child)
