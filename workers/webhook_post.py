"""One signed POST to a target that was judged: bounded in time, in bytes, and in where it goes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from models.webhooks import SECRET_PREFIX
from workers.webhook_target import Address, Target

#: Longest wait for a connection, and for the whole exchange from there on.
CONNECT_SECONDS = 3.0
EXCHANGE_SECONDS = 10.0
#: Of the answer's body so much is read, and dropped: who is cut off early logs an error.
MAX_ANSWER_BYTES = 4096
#: Addresses of one name that are tried.
MAX_ADDRESSES = 2


class PostFailed(Exception):
    """There was no answer; the message says how far it went."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said: its status, and its wish to be left alone for a while."""

    status: int
    retry_after: str | None


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of the Standard Webhooks specification, version 1."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def post(
    target: Target, addresses: Sequence[Address], body: bytes, headers: Mapping[str, str]
) -> Answer:
    """POST `body` to one of the judged `addresses`. No redirect is followed, no proxy asked.

    Raises PostFailed when there is no answer in time.
    """
    connection = http.client.HTTPConnection(target.host, target.port)
    try:
        with _connect(addresses, target.port) as raw, _deadline(raw) as guarded:
            connection.sock = guarded.secure(target) if target.scheme == "https" else raw
            return _exchange(connection, target, body, headers)
    except TimeoutError as error:
        raise PostFailed("TIMEOUT") from error
    except ssl.SSLError as error:
        raise PostFailed(f"TLS_FAILED: {error.reason or type(error).__name__}") from error
    except (OSError, http.client.HTTPException) as error:
        raise PostFailed(f"CONNECTION_FAILED: {type(error).__name__}") from error
    finally:
        connection.close()


def _exchange(
    connection: http.client.HTTPConnection, target: Target, body: bytes, headers: Mapping[str, str]
) -> Answer:
    connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
    standing = {
        "Host": target.host_header,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    for name, value in {**standing, **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    with connection.getresponse() as response:
        answer = Answer(response.status, response.getheader("Retry-After"))
        try:
            response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException):
            return answer  # the status has come, and it alone counts
        return answer


def _connect(addresses: Sequence[Address], port: int) -> socket.socket:
    """A connection to the first address that takes one: to an address, never to a name."""
    failure: OSError = OSError("no address")
    for address in addresses[:MAX_ADDRESSES]:
        try:
            return socket.create_connection((str(address), port), timeout=CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure


@cache
def tls_context() -> ssl.SSLContext:
    """The system's certificate authorities, names checked, TLS 1.2 at the least."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Guarded:
    """A socket that ends at a deadline.

    A socket's own timeout counts from the last byte: a receiver that sends one every few seconds
    would hold its thread for ever. So a timer shuts the socket down, whatever it is doing.
    """

    def __init__(self, raw: socket.socket) -> None:
        self.sock = raw
        self.expired = False

    def secure(self, target: Target) -> ssl.SSLSocket:
        """Speak TLS from here on; the certificate must be the host's, not the address's."""
        secured = tls_context().wrap_socket(
            self.sock, server_hostname=target.host, do_handshake_on_connect=False
        )
        self.sock = secured
        secured.do_handshake()
        return secured

    def expire(self) -> None:
        self.expired = True
        try:
            # The socket's own: SSLSocket.shutdown would take the TLS object from under the reader.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself meanwhile


@contextmanager
def _deadline(raw: socket.socket) -> Iterator[_Guarded]:
    guarded = _Guarded(raw)
    raw.settimeout(EXCHANGE_SECONDS)
    timer = threading.Timer(EXCHANGE_SECONDS, guarded.expire)
    timer.daemon = True
    timer.start()
    try:
        yield guarded
    except (OSError, http.client.HTTPException) as error:
        if guarded.expired:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        guarded.sock.close()
