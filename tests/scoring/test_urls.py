"""Fetching images, from a server on this machine that misbehaves."""

import http.server
import socket
import threading
import time

import pytest

from jaxqa.errors import UserError
from jaxqa.scoring import urls
from jaxqa.scoring.urls import UrlPolicy, fetch, is_url

BODY = bytes(range(256)) * 20


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif path == "/again":
            self.send_response(307)
            self.send_header("Location", "/again")
            self.end_headers()
        elif path == "/lost":
            self.send_response(302)
            self.end_headers()
        elif path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/slow-header":
            for (
                letter
            ) in b"HTTP/1.0 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy":
                self.wfile.write(bytes([letter]))
                self.wfile.flush()
                time.sleep(0.05)
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b"x" * 65536)
        elif path in ("/a.png", "/a%20b.png", "/%C3%A9.png"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)
        else:
            self.send_error(404)

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass  # the client has had enough

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


HERE = UrlPolicy(allow_private=True, timeout=5.0)


@pytest.mark.parametrize("path", ["/a.png", "/a.png?size=3", "/a b.png", "/é.png", "/to//a.png"])
def test_the_body_is_fetched(server, path):
    assert fetch(server + path, HERE) == BODY


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.png", "status 404"),
        ("/again", "more than 3 redirects"),
        ("/lost", "without a Location"),
        ("/to/file:///etc/passwd", "scheme 'file'"),
        ("/to/ftp://127.0.0.1/x", "scheme 'ftp'"),
        ("/endless", "larger than the limit of 32000 bytes"),
    ],
)
def test_refused(server, path, message):
    policy = UrlPolicy(allow_private=True, timeout=5.0, max_bytes=32000)
    with pytest.raises(UserError, match=message) as caught:
        fetch(server + path, policy)
    assert str(caught.value).startswith(server + path)


@pytest.mark.parametrize("path", ["/slow", "/slow-header"])
def test_a_slow_server_is_left(server, path):
    begun = time.monotonic()
    with pytest.raises(UserError, match="no whole answer within 0.3 s"):
        fetch(server + path, UrlPolicy(allow_private=True, timeout=0.3))
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0"]
    + ["[::ffff:127.0.0.1]", "[fe80::1]", "2130706433", "0x7f000001", "224.0.0.1", "[fc00::1]"],
)
def test_addresses_inside_are_refused(host):
    with pytest.raises(UserError, match="not on the internet|name|Name|family|resolve"):
        fetch(f"http://{host}:9/a.png", UrlPolicy(timeout=5.0))


def test_a_redirect_into_the_network_is_refused(server, monkeypatch):
    port = server.rpartition(":")[2]
    real = urls._is_public
    # The first host counts as public, as a server on the internet would.
    monkeypatch.setattr(urls, "_is_public", lambda address: address == "127.0.0.1" or real(address))
    assert fetch(f"{server}/a.png", UrlPolicy(timeout=5.0)) == BODY
    with pytest.raises(UserError, match="10.0.0.1, an address that is not on the internet"):
        fetch(f"{server}/to/http://10.0.0.1:{port}/a.png", UrlPolicy(timeout=5.0))


def test_a_name_with_one_address_inside_is_refused(monkeypatch):
    def resolve(host, port, **_):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port))
            for address in ("93.184.216.34", "127.0.0.1")
        ]

    monkeypatch.setattr(urls.socket, "getaddrinfo", resolve)
    with pytest.raises(UserError, match="127.0.0.1, an address"):
        fetch("http://rebinding.example/a.png", UrlPolicy(timeout=1.0))


@pytest.mark.parametrize("url", ["http://", "http://[::1/a", "https://:80/", "http://h:99999/a"])
def test_no_urls(url):
    with pytest.raises(UserError):
        fetch(url, UrlPolicy(timeout=1.0))


def test_what_looks_like_a_url():
    assert is_url("https://a/b.png") and is_url("file:///a") and is_url("gs://bucket/a.png")
    assert not is_url("a.png") and not is_url("C:/a.png") and not is_url("a b://c")
