"""Encryption at rest: a fresh key an object, wrapped by the volume's RSA key.

A stored object is: length of the wrapped key (2 bytes), length of the nonce (1), the wrapped
key, the nonce, the ciphertext with its tag. Facts: ``docs/format.md``, "Encryption at rest".
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from juicecache.errors import ConfigError, CorruptBlockError
from juicecache.objects.store import Buffer, ObjectStore
from juicecache.objects.wrap import CodecWrapper, part

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_HEAD = struct.Struct(">HB")
_KEY_BYTES = 32
_NONCE_BYTES = 12
_LABEL = b"keys"
_ALGORITHMS = ("aes256gcm-rsa", "chacha20-rsa")


class Cipher:
    """Seals and opens whole bodies; safe on any thread.

    Parameters
    ----------
    key_pem
        The RSA private key: PKCS#1 or PKCS#8, plain or under a passphrase.
    algorithm
        The volume's EncryptAlgo; empty means ``aes256gcm-rsa``.
    passphrase
        Of the key; not looked at when the key has none.

    Raises
    ------
    ConfigError
        Unknown algorithm, wrong or missing passphrase, or no RSA key.
    """

    def __init__(self, key_pem: str, algorithm: str, passphrase: str) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

        algorithm = algorithm.lower() or _ALGORITHMS[0]
        if algorithm not in _ALGORITHMS:
            raise ConfigError(
                f"objects encrypted with {algorithm!r} cannot be read: "
                f"juicecache knows {' and '.join(_ALGORITHMS)}"
            )
        self._aead = AESGCM if algorithm == _ALGORITHMS[0] else ChaCha20Poly1305
        self._private_key = _load_key(key_pem, passphrase)
        self._public_key = self._private_key.public_key()
        self._padding = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL)

    def __repr__(self) -> str:
        return f"<Cipher {self._aead.__name__}>"

    def seal(self, body: Buffer) -> bytes:
        """Return the stored form of ``body``, under a key and nonce of its own."""
        key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = self._public_key.encrypt(key, self._padding)
        sealed = self._aead(key).encrypt(nonce, body, None)
        return b"".join((_HEAD.pack(len(wrapped), len(nonce)), wrapped, nonce, sealed))

    def open(self, stored: bytes) -> bytes:
        """Return the content.

        Raises
        ------
        ValueError
            ``stored`` is damaged, or was sealed for another key.
        """
        from cryptography.exceptions import InvalidTag

        if len(stored) < _HEAD.size:
            raise ValueError("shorter than its head")
        wrapped_bytes, nonce_bytes = _HEAD.unpack_from(stored)
        view = memoryview(stored)[_HEAD.size :]
        wrapped, view = view[:wrapped_bytes], view[wrapped_bytes:]
        nonce, sealed = view[:nonce_bytes], view[nonce_bytes:]
        try:
            key = self._private_key.decrypt(bytes(wrapped), self._padding)
            return self._aead(key).decrypt(nonce, sealed, None)
        except InvalidTag as error:
            raise ValueError("the content does not fit its tag") from error


def _load_key(key_pem: str, passphrase: str) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    # Nothing is chained below: the library's text may quote what it was given.
    pem = key_pem.encode()
    try:
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:  # it is under a passphrase
            if not passphrase:
                raise ConfigError(
                    "the volume's RSA key needs a passphrase: set JFS_RSA_PASSPHRASE"
                ) from None
            key = load_pem_private_key(pem, passphrase.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            "the volume's RSA key cannot be opened: the passphrase in JFS_RSA_PASSPHRASE "
            "is wrong, or the PEM text is damaged"
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError("the volume's encryption key is not an RSA private key")
    return key


class EncryptedStore(CodecWrapper):
    """Every object sealed, whatever it holds."""

    def __init__(self, inner: ObjectStore, cipher: Cipher) -> None:
        # Even an empty body costs an RSA operation, so no size is small enough for the loop.
        super().__init__(inner, "juicecache-encrypt", inline_bytes=0)
        self._cipher = cipher

    async def get(
        self, name: str, start: int = 0, stop: int | None = None, *, length: int | None = None
    ) -> bytes:
        """Return a part of the content; the object is always fetched whole."""
        stored = await self._inner.get(name)
        try:
            content = await self.run(len(stored), self._cipher.open, stored)
        except ValueError as error:
            raise CorruptBlockError(
                name, "an object sealed with the volume's key", str(error), "object storage"
            ) from error
        if length is not None and len(content) != length:
            raise CorruptBlockError(
                name, f"{length} bytes", f"{len(content)} bytes", "object storage"
            )
        return part(content, start, stop)

    async def put(self, name: str, body: Buffer) -> None:
        """Store the body sealed."""
        sealed = await self.run(memoryview(body).nbytes, self._cipher.seal, body)
        await self._inner.put(name, sealed)
