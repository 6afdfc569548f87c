"""The answer to one unary gRPC call: headers, trailers and body, collected up to a bound.

Not here: the connection (`ca`). No compressed message is offered and none is taken.
Sources: github.com/grpc/grpc doc/PROTOCOL-HTTP2.md, statuscodes.md, http-grpc-status-mapping.md.
"""

import struct
from urllib.parse import unquote_to_bytes

from ..errors import AuthorityUnavailable

MAX_ANSWER_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 16

STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
# No repetition of the same request helps against these.
REFUSALS = frozenset(
    [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "FAILED_PRECONDITION",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "UNAUTHENTICATED",
    ]
)
HTTP_STATUSES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


class Answer:
    """Collects what comes back, up to a bound; trailers arrive like headers."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._body = bytearray()
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self.excess = ""  # which bound was passed

    def add_header(self, line: bytes) -> int | None:
        """Take a line of headers or trailers; 0 ends the transfer (libcurl)."""
        self._header_bytes += len(line)
        if self._header_bytes > MAX_HEADER_BYTES:
            self.excess = f"its headers are larger than {MAX_HEADER_BYTES} bytes"
            return 0
        name, separator, value = line.decode("latin-1").partition(":")
        if separator:
            self._headers[name.strip().lower()] = value.strip()
        return None

    def add_body(self, part: bytes) -> int | None:
        """Take a part of the body; 0 ends the transfer (libcurl)."""
        if len(self._body) + len(part) > MAX_ANSWER_BYTES:
            self.excess = f"its answer is larger than {MAX_ANSWER_BYTES} bytes"
            return 0
        self._body += part
        return None

    @property
    def is_begun(self) -> bool:
        """Whether any header has come."""
        return bool(self._headers)

    @property
    def content_type(self) -> str:
        """As the server says it."""
        return self._headers.get("content-type", "")

    @property
    def grpc_status(self) -> str | None:
        """The name of the status, None where none has come."""
        text = self._headers.get("grpc-status")
        if text is None:
            return None
        is_short = text.isascii() and text.isdigit() and len(text) <= 2
        is_known = is_short and int(text) < len(STATUS_NAMES)
        return STATUS_NAMES[int(text)] if is_known else "UNKNOWN"

    @property
    def grpc_message(self) -> str:
        """The server's own words, not bounded and not fit to be shown yet."""
        text = self._headers.get("grpc-message", "")
        return unquote_to_bytes(text).decode("utf-8", "replace")

    def message(self, tried: str) -> bytes:
        """The one message of the body; raises AuthorityUnavailable with what was `tried`."""
        if len(self._body) < 5:
            raise AuthorityUnavailable(f"{tried}: its answer is cut short")
        flag, length = struct.unpack_from(">BI", self._body)
        if flag == 1:
            raise AuthorityUnavailable(f"{tried}: its answer is compressed, which we never offer")
        if flag != 0:
            raise AuthorityUnavailable(f"{tried}: its answer is no gRPC message")
        if length > len(self._body) - 5:
            raise AuthorityUnavailable(f"{tried}: its answer is cut short")
        if length < len(self._body) - 5:
            raise AuthorityUnavailable(f"{tried}: its answer holds more than one message")
        return bytes(self._body[5:])
