"""Images from the web, with bounds: size, time, redirects, and no address inside the network.

The address that is checked is the one that is connected to, so a name cannot change its meaning
between the two.
"""

import contextlib
import dataclasses
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator

from jaxqa.errors import UserError

SCHEMES = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 65536


@dataclasses.dataclass(frozen=True, kw_only=True)
class UrlPolicy:
    """What may be fetched.

    Attributes:
      max_bytes: largest file.
      timeout: seconds for the whole fetch, redirects included.
      max_redirects: how many are followed.
      allow_private: whether loopback, private and other addresses that are not on the internet
        may be asked.
    """

    max_bytes: int = 32 * 2**20
    timeout: float = 20.0
    max_redirects: int = 3
    allow_private: bool = False

    def __post_init__(self):
        if self.max_bytes < 1 or self.timeout <= 0 or self.max_redirects < 0:
            raise ValueError(f"{self}: expected positive limits")


def is_url(text: str) -> bool:
    """Whether a text is a URL of any scheme, and so no path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.isalnum()


def fetch(url: str, policy: UrlPolicy) -> bytes:
    """The body behind a URL.

    Raises:
      UserError: another scheme than http and https, an address that is not allowed, too much, too
        slow, or no success; the message begins with the URL.
    """
    deadline = time.monotonic() + policy.timeout
    place = url
    for _ in range(policy.max_redirects + 1):
        found = _ask(url, place, policy, deadline)
        if isinstance(found, bytes):
            return found
        place = urllib.parse.urljoin(place, found)
    raise UserError(f"{url}: more than {policy.max_redirects} redirects; give the image's own URL")


def _ask(url: str, place: str, policy: UrlPolicy, deadline: float) -> bytes | str:
    """The body at `place`, or where it redirects to."""
    try:
        parts = urllib.parse.urlsplit(place)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{url}: not a URL: {error}") from error
    if parts.scheme not in SCHEMES or not host:
        raise UserError(f"{url}: scheme {parts.scheme!r}; expected http:// or https:// and a host")
    target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + urllib.parse.quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
    try:
        port = port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(host, port)
        with (
            _connect(host, port, parts.scheme, policy, deadline) as connected,
            _until(deadline, connected),
        ):
            connection.sock = connected
            connection.request("GET", target, headers={"User-Agent": "jaxqa", "Accept": "image/*"})
            with connection.getresponse() as response:
                return _read(response, policy)
    except TimeoutError as error:
        raise UserError(f"{url}: no whole answer within {policy.timeout:g} s") from error
    except (OSError, http.client.HTTPException, UnicodeError, _Refused) as error:
        raise UserError(f"{url}: {' '.join(str(error).split()) or type(error).__name__}") from error


@contextlib.contextmanager
def _until(deadline: float, connected: socket.socket) -> Iterator[None]:
    """Cut the connection at the deadline, however slowly bytes come; TimeoutError then."""

    def cut() -> None:
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_left(deadline), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        _left(deadline)
        raise
    finally:
        timer.cancel()
    _left(deadline)  # what was cut off looks like an end


class _Refused(Exception):
    """Why a URL gives no image."""


def _connect(
    host: str, port: int, scheme: str, policy: UrlPolicy, deadline: float
) -> socket.socket:
    """A connection to the first address of `host` that answers, all of them allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not (policy.allow_private or _is_public(address)):
            raise _Refused(f"{host} is {address}, an address that is not on the internet")
    failure: OSError = OSError(f"{host} has no address")
    for address in addresses:
        try:
            connected = socket.create_connection((address, port), timeout=_left(deadline))
        except OSError as error:
            failure = error
            continue
        if scheme == "https":
            return ssl.create_default_context().wrap_socket(connected, server_hostname=host)
        return connected
    raise failure


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    parsed = mapped or parsed
    return parsed.is_global and not parsed.is_multicast


def _read(response: http.client.HTTPResponse, policy: UrlPolicy) -> bytes | str:
    """The body, or where it has moved to."""
    if response.status in _REDIRECTS:
        target = response.getheader("Location")
        if not target:
            raise _Refused(f"status {response.status} without a Location")
        return target
    if response.status != 200:
        raise _Refused(f"status {response.status}, expected 200")
    body = bytearray()
    while len(body) <= policy.max_bytes:
        piece = response.read1(_CHUNK)
        if not piece:
            return bytes(body)
        body += piece
    raise _Refused(f"larger than the limit of {policy.max_bytes} bytes")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
