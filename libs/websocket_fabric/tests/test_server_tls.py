"""Serving TLS without a proxy in front."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from served import HOST, Peer, make, running, until


def _contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path = directory / "both.pem"
    path.write_bytes(private + certificate)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(path)
    return ours, ssl.create_default_context(cadata=certificate.decode())


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_tls(run: Any, tmp_path: Path) -> None:
    """Large and small messages are echoed, a slow reader is waited for, the goodbye arrives."""

    async def main() -> None:
        ours, theirs = _contexts(tmp_path)
        server = make(tls=ours)
        server.on_message(lambda message: message.data)
        async with running(server):
            connected = await asyncio.open_connection(HOST, server.port, ssl=theirs, server_hostname="localhost")
            peer = Peer(*connected)
            await peer.shake()
            peer.send(b"x" * 900_000, "small")
            assert len(await peer.receive()) == 900_000
            assert await peer.receive() == "small"
            assert await peer.close() == 1000
            await until(lambda: not server.connections)

    run(main())
