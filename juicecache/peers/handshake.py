"""Who may talk: both sides prove that they know the group's secret, which is never sent.

::

    client  HELLO      lowest and highest version, volume, group, nonce
    member  CHALLENGE  version, nonce
    client  PROOF      HMAC-SHA256(key, "client" and all of the above)
    member  WELCOME    HMAC-SHA256(key, "member", the same, what it is), what it is
    member  REFUSED    why, instead of its next frame

The key is the SHA-256 of the secret: to HMAC alone, a secret with zeros behind it is the same.
The nonces are fresh, so nothing that was heard once is of use again, and a member that does not
know the secret is found out before anything it says is believed. What follows is neither
encrypted nor signed: whoever can change packets on the way can take over a connection. Where
that matters, TLS goes around all of this.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import msgpack

from juicecache.errors import PeerDeniedError, PeerError, PeerProtocolError
from juicecache.peers.wire import VERSIONS, Frame, Kind, frame

NONCE_BYTES = 32
_ABOUT_ITEMS_MAX = 32
_DETAIL_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Terms:
    """What a connection is for.

    Attributes
    ----------
    volume
        The namespace of the blocks: the volume's UUID.
    group
        The cache group.
    secret
        What its members and clients know; without one nobody is let in.
    versions
        Lowest and highest version of the protocol.
    """

    volume: str
    group: str
    secret: bytes = field(repr=False)
    versions: tuple[int, int] = VERSIONS


class Caller:
    """The side that connects.

    Parameters
    ----------
    nonce
        `NONCE_BYTES` fresh random bytes.
    """

    def __init__(self, terms: Terms, nonce: bytes) -> None:
        self._terms = terms
        self._said = [*terms.versions, terms.volume, terms.group, nonce]

    def hello(self) -> bytes:
        """Return the first frame.

        Raises
        ------
        PeerDeniedError
            There is no secret: anybody could prove that he knows as much.
        """
        if not self._terms.secret:
            raise PeerDeniedError("there is no secret of the group yet")
        return frame(Kind.HELLO, self._said)

    def prove(self, challenge: Frame) -> bytes:
        """Return the answer to a CHALLENGE.

        Raises
        ------
        PeerDeniedError, PeerProtocolError
        """
        header = _expected(challenge, Kind.CHALLENGE, 2)
        version, nonce = header
        low, high = self._terms.versions
        if type(version) is not int or not low <= version <= high or not _is_nonce(nonce):
            raise PeerProtocolError("its challenge does not have its form")
        self._said += [version, nonce]
        return frame(Kind.PROOF, [_proof(self._terms.secret, "client", self._said)])

    def accept(self, welcome: Frame) -> dict[str, Any]:
        """Return what the member says of itself, once it has proved that it knows the secret.

        Raises
        ------
        PeerDeniedError, PeerProtocolError
        """
        proof, about = _expected(welcome, Kind.WELCOME, 2)
        if not _is_about(about):
            raise PeerProtocolError("its welcome does not have its form")
        if not _is_proof(proof, _proof(self._terms.secret, "member", [*self._said, about])):
            raise PeerDeniedError("it does not know the secret of the group")
        return about


class Doorkeeper:
    """The side that is called; ``receive`` frames until ``is_open``.

    Parameters
    ----------
    nonce
        `NONCE_BYTES` fresh random bytes.
    about
        What a caller learns who knows the secret: texts and numbers.
    """

    def __init__(self, terms: Terms, nonce: bytes, about: dict[str, Any]) -> None:
        self._terms = terms
        self._nonce = nonce
        self._about = about
        self._said: list[Any] = []
        self.is_open = False

    def receive(self, received: Frame) -> bytes:
        """Return the answer to a caller's next frame.

        Raises
        ------
        PeerDeniedError, PeerProtocolError
            He is not let in: send him a `refusal` and close.
        """
        assert not self.is_open
        if not self._said:
            return self._challenge(_expected(received, Kind.HELLO, 5))
        (proof,) = _expected(received, Kind.PROOF, 1)
        if not _is_proof(proof, _proof(self._terms.secret, "client", self._said)):
            raise PeerDeniedError("the secret of the group differs")
        self.is_open = True
        ours = _proof(self._terms.secret, "member", [*self._said, self._about])
        return frame(Kind.WELCOME, [ours, self._about])

    def _challenge(self, hello: list[Any]) -> bytes:
        low, high, volume, group, nonce = hello
        if type(low) is not int or type(high) is not int or not _is_nonce(nonce):
            raise PeerProtocolError("a HELLO does not have its form")
        ours = self._terms.versions
        version = min(high, ours[1])
        if version < max(low, ours[0]):
            raise PeerProtocolError(
                f"it speaks versions {ours[0]} to {ours[1]} of the protocol, and the caller "
                f"{low} to {high}: update the older one"
            )
        if volume != self._terms.volume:
            raise PeerDeniedError("it serves another volume")
        if group != self._terms.group:
            raise PeerDeniedError("it is in another cache group")
        if not self._terms.secret:
            raise PeerDeniedError("it has no secret yet")
        self._said = [*hello, version, self._nonce]
        return frame(Kind.CHALLENGE, [version, self._nonce])


def refusal(error: PeerError) -> bytes:
    """Return the frame that tells a caller why he is not let in."""
    word = "denied" if isinstance(error, PeerDeniedError) else "protocol"
    return frame(Kind.REFUSED, [word, error.detail[:_DETAIL_CHARS_MAX]])


def _expected(received: Frame, kind: Kind, count: int) -> list[Any]:
    if received.kind == Kind.REFUSED:
        raise _refused(received.header)
    if received.kind != kind or len(received.header) != count:
        raise PeerProtocolError(f"a {received.kind.name} came where a {kind.name} belongs")
    return received.header


def _refused(header: Sequence[Any]) -> PeerError:
    """Return the error that a REFUSED means; its text comes from a stranger."""
    word, detail = header if len(header) == 2 else ("", "")
    shown = detail if isinstance(detail, str) else ""
    shown = "".join(c for c in shown[:_DETAIL_CHARS_MAX] if c.isprintable())
    kind = PeerDeniedError if word == "denied" else PeerProtocolError
    return kind(f"it refuses us: {shown}")


def _proof(secret: bytes, role: str, said: list[Any]) -> bytes:
    return hmac.digest(hashlib.sha256(secret).digest(), msgpack.packb([role, *said]), "sha256")


def _is_proof(given: Any, right: bytes) -> bool:
    return isinstance(given, bytes) and hmac.compare_digest(given, right)


def _is_about(value: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(value, dict)
        and len(value) <= _ABOUT_ITEMS_MAX
        and all(item is None or isinstance(item, str | int | float) for item in value.values())
    )


def _is_nonce(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == NONCE_BYTES
