"""Command line: HTTP to the service, with http.client, which loads five times as fast as httpx."""

import http.client
import os
import re
import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from virtplay.cli.connection import is_loopback
from virtplay.cli.faults import CannotReach, NotSent

RESPONSE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
PROBE_SECONDS = 1.0
"""How long TLS may take before the command checks whether the port speaks HTTP without it."""
PORTS = {"http": 80, "https": 443}


class Response(NamedTuple):
    """A response of the service."""

    status: int
    content_type: str
    content: bytes


class Transport:
    """A connection to the service that is kept between requests."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._url = url
        self._secure = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port or PORTS[parts.scheme])
        self._base = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._headers = dict(headers)
        self._proxy = find_proxy(url)
        self._open: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def request(self, method: str, target: str, body: bytes | None = None) -> Response:
        """Return the response; `target`: path below the URL, with the query, quoted. CannotReach.

        NotSent if the service has not received the request.
        """
        connection = self._connection()
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        target = f"{self._base}{target}"
        if self._proxy is not None and not self._secure:
            target = f"{self._url.removesuffix(urlsplit(self._url).path)}{target}"
            headers |= self._proxy.headers
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            response = Response(
                answer.status, answer.headers.get("content-type", "nothing"), answer.read()
            )
        except TimeoutError:
            self.close()
            raise CannotReach(
                f"no response from {self._url}: timed out after {RESPONSE_SECONDS:.0f} s"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not self._secure and self._proxy is None and self._speaks_tls():
                raise NotSent(
                    f"cannot use {self._url}: the service requires https there; use"
                    f" https{self._url.removeprefix('http')}"
                ) from None
            raise CannotReach(f"no response from {self._url}: {_reason(error)}") from None
        except BaseException:
            # Ctrl-C: the rest of this response would be taken for the next one.
            self.close()
            raise
        if answer.will_close:
            self.close()
        return response

    def _connection(self) -> http.client.HTTPConnection:
        """Return the kept connection unless the service has closed it, or a new one."""
        kept = self._open
        if kept is not None and kept.sock is not None:
            if not select.select([kept.sock], [], [], 0)[0]:
                return kept
            self.close()
        try:
            self._open = self._connect()
        except ssl.SSLCertVerificationError as error:
            raise NotSent(
                f"cannot trust the certificate of {self._url}: {error.verify_message}; if a CA of"
                " your own issued it, set SSL_CERT_FILE to its certificate"
            ) from None
        except TimeoutError:
            raise NotSent(
                f"cannot reach {self._url}: timed out after {CONNECT_SECONDS:.0f} s;"
                " is the service running?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotSent(
                f"cannot reach {self._url}: {_reason(error)}; is the service running?"
            ) from None
        return self._open

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._proxy.address if self._proxy else self._address
        connection: http.client.HTTPConnection
        if not self._secure:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
            connection.connect()
        elif self._proxy:
            connection = http.client.HTTPSConnection(
                host, port, timeout=CONNECT_SECONDS, context=ssl.create_default_context()
            )
            connection.set_tunnel(*self._address, headers=self._proxy.headers)
            connection.connect()
        else:
            connection = http.client.HTTPSConnection(host, port)
            connection.sock = self._start_tls()
        connection.sock.settimeout(RESPONSE_SECONDS)
        return connection

    def _start_tls(self) -> ssl.SSLSocket:
        """Return a TLS connection; NotSent at once if the port speaks HTTP without TLS.

        Such a service may be silent, because it waits for the end of what it takes for a request.
        """
        context = ssl.create_default_context()
        for patience in (PROBE_SECONDS, CONNECT_SECONDS):
            raw = socket.create_connection(self._address, CONNECT_SECONDS)
            raw.settimeout(patience)
            try:
                return context.wrap_socket(raw, server_hostname=self._address[0])
            except ssl.SSLCertVerificationError:
                raise
            except (TimeoutError, ssl.SSLError, ConnectionError) as error:
                raw.close()
                if self._speaks_http():
                    raise NotSent(
                        f"cannot use {self._url}: the service speaks http there, without TLS; use"
                        f" http{self._url.removeprefix('https')}"
                    ) from None
                if not isinstance(error, TimeoutError):
                    raise
        raise TimeoutError

    def _speaks_http(self) -> bool:
        """Return whether the port answers a request without TLS with anything but an error."""
        connection = http.client.HTTPConnection(*self._address, timeout=PROBE_SECONDS)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", f"{self._base}/healthz")
            # Web servers answer 400 to a request without TLS on a port that requires it.
            return connection.getresponse().status != http.HTTPStatus.BAD_REQUEST
        connection.close()
        return False

    def _speaks_tls(self) -> bool:
        """Return whether the port completes the beginning of TLS, with any certificate."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            suppress(OSError),
            socket.create_connection(self._address, PROBE_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=self._address[0]),
        ):
            return True
        return False


class Proxy(NamedTuple):
    """A proxy of the environment."""

    address: tuple[str, int]
    headers: dict[str, str]
    """Those that authenticate at the proxy."""


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy for a URL by HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY; CannotReach.

    A loopback address needs no proxy.
    """
    if is_loopback(url) or not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    # Most environments have no proxy, and this takes longer to load than all of this file.
    from urllib import request  # noqa: PLC0415

    parts = urlsplit(url)
    proxies = request.getproxies()
    given = proxies.get(parts.scheme) or proxies.get("all")
    if not given or request.proxy_bypass(parts.netloc):
        return None
    proxy = urlsplit(given if "://" in given else f"http://{given}")
    try:
        port = proxy.port
        (proxy.hostname or "").encode("idna")
    except ValueError:
        port = 0
    if proxy.scheme != "http" or not proxy.hostname or port == 0:
        raise CannotReach(f"cannot use the proxy {given}: expected a URL such as http://proxy:3128")
    headers = {}
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    return Proxy((proxy.hostname, port or PORTS["http"]), headers)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed"
    return re.sub(r"^\[Errno [-0-9]+\] ", "", str(error)) or type(error).__name__
