"""An authority of one's own, for development and closed federations; and a look at certificates.

Keys are P-256, certificates X.509 v3 with the names in the subject alternative name (RFC 6125).
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from shoal.errors import ConfigError, MissingExtra, positive

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise MissingExtra("cryptography", "server") from error

WARNING = timedelta(days=14)  # before a certificate ends, people are told


@dataclass(frozen=True, slots=True)
class Pair:
    """Two PEM files: a certificate, and its private key readable by its owner alone."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str = "Shoal", days: float = 3650.0) -> Pair:
    """Make a CA: `ca.pem` for everybody to trust, `ca.key` for whoever issues.

    Args:
        folder: made if need be.
        name: of the authority.
        days: until it ends.

    Raises:
        ConfigError: if the files are there already or cannot be written.
    """
    positive("days", days)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), _span(0.0, days)).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_others=True), critical=True)
    return _write(folder, "ca", _signed(builder, key), key)


def issue(
    ca: Pair, folder: Path, name: str, hosts: tuple[str, ...] = (), *, starts: float = 0.0,
    days: float = 365.0,
) -> Pair:  # fmt: skip
    """Make a certificate and its key: `NAME.pem` and `NAME.key`.

    Args:
        ca: who signs it.
        folder: made if need be.
        name: its common name; for a client, the name that it acts under.
        hosts: names and addresses of a server; without any, it is a client's.
        starts: days from now until it is valid; days in the past if negative.
        days: that it is valid from then.

    Raises:
        ConfigError: if the CA cannot be read, or the files are there already.
    """
    positive("days", days)
    authority, signer = _load(ca)
    key = ec.generate_private_key(ec.SECP256R1())
    use = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(_name(name), authority.subject, key.public_key(), _span(starts, days))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_others=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return _write(folder, name, _signed(builder, signer), key)


def check(path: Path, host: str = "", now: datetime | None = None) -> str:
    """Look at a certificate before it is used.

    Args:
        path: a PEM file; the first certificate in it counts.
        host: that clients will dial; "" if unknown.
        now: with time zone; None for the clock's.

    Returns:
        A warning if it ends soon, else "".

    Raises:
        ConfigError: if it is no certificate, has expired, is not valid yet, or is for other hosts.
    """
    found = _read(path)
    now = now or datetime.now(UTC)
    starts, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if now >= ends:
        raise ConfigError("certificate", f"{path} expired on {ends:%Y-%m-%d %H:%M} UTC; renew it")
    if now < starts:
        told = f"{path} is not valid before {starts:%Y-%m-%d %H:%M} UTC"
        raise ConfigError("certificate", f"{told}; check this machine's clock")
    names = _hosts(found)
    if host and not any(_covers(name, host) for name in names):
        told = ", ".join(names) or "no host"
        raise ConfigError("certificate", f"{path} is for {told}, not for {host}; issue it for both")
    soon = ends - now < WARNING
    return f"{path} expires on {ends:%Y-%m-%d}; renew it" if soon else ""


def ends(path: Path) -> datetime:
    """When a certificate ends, in UTC; raises `ConfigError` if the file holds none."""
    return _read(path).not_valid_after_utc


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError("certificate", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError("certificate", f"{path} holds no certificate in PEM") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    span: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(span[0])
        .not_valid_after(span[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(identifier, critical=False).sign(signer, hashes.SHA256())


def _usage(*, signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        encipher_only=False,
        decipher_only=False,
    )


def _span(starts: float, days: float) -> tuple[datetime, datetime]:
    # A minute earlier, for clocks that are a little behind.
    start = datetime.now(UTC) + timedelta(days=starts) - timedelta(minutes=1)
    return start, start + timedelta(days=days)


def _name(name: str) -> x509.Name:
    if not 0 < len(name) <= 64 or not name.isprintable() or "/" in name or name.startswith("."):
        raise ConfigError("name", f"must have 1 to 64 printable characters, got {name[:80]!r}")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _hosts(found: x509.Certificate) -> list[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return names.get_values_for_type(x509.DNSName) + addresses


def _covers(name: str, host: str) -> bool:
    name, host = name.lower(), host.lower().rstrip(".")
    if name.startswith("*."):  # stands for one label
        return "." in host and host.partition(".")[2] == name[2:]
    return name == host


def _load(ca: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
        key = serialization.load_pem_private_key(ca.key.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError("ca", f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError("ca", f"{ca.certificate} or {ca.key} is not in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        certificate.public_key()
    ):
        raise ConfigError("ca", f"{ca.key} is not the elliptic-curve key of {ca.certificate}")
    return certificate, key


def _write(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Pair:
    pair = Pair(folder / f"{stem}.pem", folder / f"{stem}.key")
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = certificate.public_bytes(pem)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
        for path, mode, data in ((pair.key, 0o600, secret), (pair.certificate, 0o644, public)):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except FileExistsError as error:
        raise ConfigError("folder", f"{error.filename} is there already; move it away") from error
    except OSError as error:
        raise ConfigError("folder", f"cannot write to {folder}: {error.strerror}") from error
    return pair
