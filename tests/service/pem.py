"""Keys and certificates as PEM files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Pem:
    """Key and self-signed certificate for ``localhost`` and 127.0.0.1."""

    def __init__(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.certificate = made.public_bytes(serialization.Encoding.PEM)
        self.key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def write(self, folder: Path) -> None:
        """Write key, certificate, and both in one file, replacing existing ones."""
        (folder / "key.pem").write_bytes(self.key)
        (folder / "cert.pem").write_bytes(self.certificate)
        (folder / "both.pem").write_bytes(self.certificate + self.key)


@lru_cache
def cached_pem(name: str = "first") -> Pem:
    """Return the pair of a name; each is generated once per process."""
    return Pem(name)


def endpoint(folder: Path, port: int = 0) -> str:
    """Return an endpoint description with the files of a directory, on a loopback address."""
    return f"ssl:{port}:interface=127.0.0.1:privateKey={folder}/key.pem:certKey={folder}/cert.pem"
