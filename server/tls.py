"""TLS: the certificate, its key, and the CA of the callers, checked at start and read again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from server.config import Config
from server.errors import StartError
from server.watched import Watched

log = logging.getLogger(__name__)


def credentials(config: Config) -> grpc.ServerCredentials | None:
    """What grpcio needs for TLS, or None where it is not asked for; StartError names the file that is wrong.

    A new certificate is used from the next handshake on. Where the files become wrong, the last good ones stay, and
    the log says so.
    """
    certificate, key, client_ca = config.tls_certificate, config.tls_key, config.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]

    def read() -> grpc.ServerCertificateConfiguration:
        configuration = _read(certificate, key, client_ca)
        log.info("TLS: certificate %s%s", certificate, f", callers of {client_ca} only" if client_ca else "")
        return configuration

    def failed(error: Exception) -> None:
        log.error("TLS: the files changed, and the last good ones stay in force: %s", error)

    watched = Watched(paths, read, failed)
    # grpcio asks at each handshake, on a thread of its own.
    return grpc.dynamic_ssl_server_credentials(watched.value(), watched.value, client_ca is not None)


def context(config: Config) -> ssl.SSLContext | None:
    """The same for HTTP: what Python's ssl needs, or None."""
    certificate, key, client_ca = config.tls_certificate, config.tls_key, config.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]
    # What is wrong with the files, grpcio's handshakes have logged, or will.
    watched = Watched(paths, lambda: _context(certificate, key, client_ca), lambda _: None)
    first = watched.value()

    def newest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = watched.value()

    first.sni_callback = newest  # at each handshake, whether or not the caller names a server
    return first


def _read(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    """The files' content for grpcio, which itself would say no more than that it cannot bind."""
    chain, private, roots = _pem(certificate), _pem(key), _pem(client_ca) if client_ca else None
    _context(certificate, key, client_ca)
    return grpc.ssl_server_certificate_configuration([(private, chain)], roots)


def _context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """A context of these files; StartError names the one that is wrong."""
    private, roots = _pem(key), _pem(client_ca) if client_ca else None
    if b"ENCRYPTED" in private:
        raise StartError(f"the TLS key {key} is encrypted; the server needs one that is not")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartError(f"the TLS key {key} is not that of the certificate {certificate}") from error
        raise StartError(f"the TLS certificate {certificate} or its key {key} is not in PEM format") from error
    try:
        if roots is not None:
            made.load_verify_locations(cadata=roots.decode("ascii", "replace"))
            made.verify_mode = ssl.CERT_REQUIRED
            # No session is resumed, in which the caller's certificate would not be asked for again: the CA may change.
            made.minimum_version, made.num_tickets = ssl.TLSVersion.TLSv1_3, 0
    except (ssl.SSLError, ValueError) as error:
        raise StartError(f"the TLS client CA {client_ca} holds no certificate in PEM format") from error
    return made


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read the TLS file {path}: {error.strerror}") from error
