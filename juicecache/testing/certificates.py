"""Certificates for tests of TLS: an authority, and what it signs for the name ``localhost``."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = dt.timedelta(days=1)


class Authority:
    """Signs certificates, which stand as PEM files in a folder, each with its key."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._name = _subject(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.path.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))

    def self_signed(self, name: str) -> Path:
        """Return a file with a certificate that signs itself, and its key."""
        path = self._folder / f"{name}.pem"
        path.write_bytes(_private(self._key) + self.path.read_bytes())
        return path

    def sign(self, name: str) -> Path:
        """Return a file with a new certificate of ``name`` for ``localhost``, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(name), self._name, key.public_key())
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), False
        )
        path = self._folder / f"{name}.pem"
        path.write_bytes(_private(key) + _pem(builder.sign(self._key, hashes.SHA256())))
        return path

    def server_context(self, certificate: Path) -> ssl.SSLContext:
        """Return a context of a server that lets in only whom this authority signed."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.path))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate)
        return context

    def client_context(self, certificate: Path | None) -> ssl.SSLContext:
        """Return a context of a client that trusts this authority, and what it shows itself."""
        context = ssl.create_default_context(cafile=str(self.path))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
