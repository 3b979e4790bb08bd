"""https with a certificate that is made here, and what is wrong with others."""

from __future__ import annotations

import hashlib
import ssl
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from omni_edge.errors import ServerError
from omni_edge.serve.tls import self_signed, tls_context


def test_a_self_signed_certificate_is_made_once_and_is_trusted_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path))
    certificate, key, fingerprint = self_signed("127.0.0.1", ("speaker.example",))
    assert self_signed("127.0.0.1", ("speaker.example",)) == (certificate, key, fingerprint)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))
    assert fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    # A handshake without a network: the client checks name and signature.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.create_default_context(cafile=str(certificate))
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="speaker.example")
    server = tls_context(certificate, key).wrap_bio(outgoing, incoming, server_side=True)
    for side in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert client.version() == "TLSv1.3"


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for certificate in (tmp_path / "x.pem", tmp_path / "missing.pem"):
        with pytest.raises(ServerError, match="cannot be used") as caught:
            tls_context(certificate, tmp_path / "x.pem")
        assert caught.value.exit_code == 7
