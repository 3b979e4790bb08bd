"""Certificates: those of the user, or one that is made for this machine and signed by itself."""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from omni_edge.backend.machine import cache_root
from omni_edge.errors import ServerError

_DAYS = 825
_CERTIFICATE, _KEY = "server.crt", "server.key"


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What the server needs to speak TLS.

    Args:
        certificate: PEM file with the certificate, and those that signed it.
        key: PEM file with its key.

    Raises:
        ServerError: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise ServerError(
            f"The certificate {certificate} and the key {key} cannot be used ({reason}). Name two PEM files that "
            "belong together."
        ) from None
    return context


def self_signed(host: str, names: tuple[str, ...] = ()) -> tuple[Path, Path, str]:
    """A certificate for this machine, made once and kept in the user's cache folder.

    Args:
        host: the address on which the server listens.
        names: further names of it.

    Returns:
        the files of certificate and key, and the certificate's SHA-256 fingerprint, as browsers show it.

    Raises:
        ServerError: the package cryptography is not installed, or the files cannot be written.
    """
    own = socket.gethostname()
    subjects = sorted({"localhost", "127.0.0.1", own, f"{own.partition('.')[0]}.local", host, *names})
    folder = cache_root() / "tls" / hashlib.sha256("\n".join(subjects).encode()).hexdigest()[:16]
    certificate, key = folder / _CERTIFICATE, folder / _KEY
    try:
        if not (certificate.is_file() and key.is_file()):
            _make(folder, subjects)
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))
    except OSError as error:
        raise ServerError(f"The certificate cannot be kept in {folder} ({error.strerror}). Check its rights.") from None
    digest = hashlib.sha256(der).hexdigest().upper()
    return certificate, key, ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def _make(folder: Path, subjects: list[str]) -> None:
    try:
        from cryptography import x509  # noqa: PLC0415 -- an extra
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    except ImportError:
        raise ServerError("A self-signed certificate needs cryptography: pip install 'omni-edge[serve]'") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "omni-edge")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_subject(x509, text) for text in subjects]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in ((folder / _KEY, secret), (folder / _CERTIFICATE, made.public_bytes(serialization.Encoding.PEM))):
        partial = file.with_suffix(".part")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(data)
        partial.replace(file)


def _subject(x509: Any, text: str) -> Any:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
