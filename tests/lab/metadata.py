"""A metadata server of a cloud, as the clouds document theirs: one that runs in a thread.

Tests only. Google: "Metadata-Flavor: Google" in the question and in the answer; Amazon: a session
token by PUT, then the document with it (IMDSv2).
"""

import contextlib
import http.server
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

GOOGLE_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"
AMAZON_DOCUMENT = b'{"instanceId" : "i-1234567890abcdef0"}'
_SESSION = "session-of-amazon"


@dataclass
class Behaviour:
    """What it answers: `make_token` gets the audience; `statuses` come before the good answer.

    `is_cut`: the connection ends in the middle of the body. `pause_s`: before each byte of it.
    """

    make_token: Callable[[str], str] = lambda _audience: ""
    statuses: list[int] = field(default_factory=list)
    has_flavor: bool = True
    is_cut: bool = False
    pause_s: float = 0.0
    audiences: list[str] = field(default_factory=list)
    asked: int = 0


class MetadataServer:
    """Serves on a port of loopback between enter and exit."""

    def __init__(self, behaviour: Behaviour) -> None:
        handler = type("Handler", (_Handler,), {"behaviour": behaviour})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "MetadataServer":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour
    _pause = threading.Event()  # never set

    def do_GET(self) -> None:  # the library's name
        """Answer Google's question, or the second one of Amazon's."""
        behaviour, parts = self.behaviour, urlsplit(self.path)
        behaviour.asked += 1
        if behaviour.statuses:
            self._reply(behaviour.statuses.pop(0), b"later")
        elif parts.path == GOOGLE_PATH and self.headers.get("Metadata-Flavor") == "Google":
            audience = parse_qs(parts.query)["audience"][0]
            behaviour.audiences.append(audience)
            self._reply(200, behaviour.make_token(audience).encode())
        elif (
            parts.path == "/latest/dynamic/instance-identity/document"
            and self.headers.get("X-aws-ec2-metadata-token") == _SESSION
        ):
            self._reply(200, AMAZON_DOCUMENT)
        else:
            self._reply(403, b"")

    def do_PUT(self) -> None:  # the library's name
        """Give Amazon's session token."""
        is_right = bool(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"))
        self._reply(200 if is_right else 400, _SESSION.encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.behaviour.has_flavor:
            self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body) * (2 if self.behaviour.is_cut else 1)))
        self.end_headers()
        if not self.behaviour.pause_s:
            self.wfile.write(body)
            return
        with contextlib.suppress(OSError):
            for each in body:
                self.wfile.write(bytes([each]))
                self._pause.wait(self.behaviour.pause_s)
