"""A query for a name, and what is answered (RFC 1035, RFC 6891 for the size of an answer).

Not here: which addresses a name has (`table`), and sockets.
Always: what is read is bytes that anybody may have sent; what is no query raises ValueError.
"""

import struct

HEADER = struct.Struct(">HHHHHH")  # id, flags, and how many of each of the four sections
A, AAAA, OPT, IN = 1, 28, 41, 1
NOERROR, SERVFAIL = 0, 2
_RCODE = 0x000F
_RESPONSE, _OPCODE, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x7800, 0x0400, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x0100, 0x0080
_KIND = struct.Struct(">HH")
# A pointer to the name in the question, kind, class, life in seconds, length of the address.
_RECORD = struct.Struct(">HHHIH")
_POINTER = 0xC00C
TTL_S = 30
# The resolver itself answers for this name, by RFC 6761 nobody else's: once it knows the mesh's.
OWN_NAME = "resolver.istio-hostagent.invalid"
SMALLEST, LARGEST = 512, 65535
_MAX_NAME = 255


class Query:
    """One query: `name` in lower case without the last dot; `limit`: how long an answer may be."""

    __slots__ = ("flags", "kind", "limit", "name", "number", "question")

    def __init__(self, data: bytes, *, is_stream: bool = False) -> None:
        """Read a message; raises ValueError where it is no query with one question."""
        if len(data) < HEADER.size:
            raise ValueError("it is too short")
        self.number, self.flags, questions, answers, _, further = HEADER.unpack_from(data)
        if self.flags & (_RESPONSE | _OPCODE) or questions != 1 or answers:
            raise ValueError("it is no query for one name")
        self.name, at = _parse_name(data)
        if len(data) < at + _KIND.size:
            raise ValueError("it ends within the question")
        self.kind, of_class = _KIND.unpack_from(data, at)
        if of_class != IN:
            raise ValueError("it is not for the internet")
        end = at + _KIND.size
        self.question = data[HEADER.size : end]
        self.limit = LARGEST if is_stream else _find_size(data, end, further)


def render_query(number: int, name: str) -> bytes:
    """Ask for the IPv4 addresses of a name."""
    labels = b"".join(bytes((len(each),)) + each.encode() for each in name.split("."))
    head = HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0)
    return head + labels + b"\0" + _KIND.pack(A, IN)


def is_success(data: bytes) -> bool:
    """Whether an answer says that all is well."""
    return len(data) >= HEADER.size and HEADER.unpack_from(data)[1] & _RCODE == NOERROR


def is_answer(data: bytes, number: int, question: bytes) -> bool:
    """Whether a message is the answer to what was asked under this number."""
    if len(data) < HEADER.size + len(question):
        return False
    found, flags, questions, *_ = HEADER.unpack_from(data)
    asked = data[HEADER.size : HEADER.size + len(question)]
    # Servers give names back in the letters in which they were asked for.
    is_same = asked.lower() == question.lower()
    return found == number and bool(flags & _RESPONSE) and questions == 1 and is_same


def renumbered(data: bytes, number: int) -> bytes:
    """The same message under another number."""
    return number.to_bytes(2, "big") + data[2:]


def render_failure(data: bytes) -> bytes:
    """Say of a query, whatever it asks, that it could not be answered; empty: that is no query."""
    if len(data) < HEADER.size:
        return b""
    number, flags, *_ = HEADER.unpack_from(data)
    if flags & _RESPONSE:
        return b""
    flags = _RESPONSE | flags & (_OPCODE | _RECURSION_DESIRED) | _RECURSION_AVAILABLE | SERVFAIL
    try:
        _, at = _parse_name(data)
        question = data[HEADER.size : at + _KIND.size]
    except ValueError:
        return HEADER.pack(number, flags, 0, 0, 0, 0)
    return HEADER.pack(number, flags, 1, 0, 0, 0) + question


def render_answer(query: Query, addresses: tuple[bytes, ...]) -> bytes:
    """Answer with these addresses, packed, as many as fit; none of this kind is an answer, too."""
    flags = _RESPONSE | _AUTHORITATIVE | query.flags & _RECURSION_DESIRED | _RECURSION_AVAILABLE
    room = query.limit - HEADER.size - len(query.question)
    size = _RECORD.size + (len(addresses[0]) if addresses else 0)
    shown = addresses[: max(room // size, 0)]
    if len(shown) < len(addresses):
        flags |= _TRUNCATED
    records = b"".join(
        _RECORD.pack(_POINTER, query.kind, IN, TTL_S, len(address)) + address for address in shown
    )
    return HEADER.pack(query.number, flags, 1, len(shown), 0, 0) + query.question + records


def _parse_name(data: bytes) -> tuple[str, int]:
    """The name in the question, and where it ends; a pointer has no place there."""
    labels, at = [], HEADER.size
    while True:
        if at >= len(data) or at > HEADER.size + _MAX_NAME:
            raise ValueError("the name does not end")
        length = data[at]
        if length > 63:
            raise ValueError("a label is too long")
        at += 1
        if not length:
            break
        labels.append(data[at : at + length])
        at += length
    return b".".join(labels).decode("latin-1").lower(), at


def _find_size(data: bytes, at: int, further: int) -> int:
    """What the asking side takes by UDP: 512 bytes, or more if its last record says so."""
    # Root name (one zero byte), kind OPT, and the size in the place of the class.
    is_opt = further == 1 and data[at : at + 3] == b"\0" + OPT.to_bytes(2, "big")
    if not is_opt or len(data) < at + 5:
        return SMALLEST
    return max(int.from_bytes(data[at + 3 : at + 5], "big"), SMALLEST)
