"""The rules that iptables-nft keeps in nf_tables, in the words of `redirect.takeover`.

It writes some matches as expressions of nf_tables and others as those of x_tables, and which ones
differs with its version: both give the same words. Not here: reading them (`remains`), and what
no rule of Istio's outside its own chains has; that is a word that begins with `?`.
"""

import sys
from collections.abc import Iterator, Mapping

from ..redirect import takeover
from . import xtrules
from .nfnetlink import expressions, framing

_VERDICTS = {0: "DROP", 1: "ACCEPT", -5: "RETURN"}
_JUMP, _GOTO = -3, -4
_EQUAL, _DIFFERS = 0, 1  # NFT_CMP_EQ, NFT_CMP_NEQ
_META = {3: "--mark", 6: "-i", 7: "-o", 16: "-p"}  # NFT_META_MARK, IIFNAME, OIFNAME, L4PROTO
_CT_MARK = 3  # NFT_CT_MARK
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
# Where an address begins, and of IPv4 the protocol.
_ADDRESSES = {2: {12: "-s", 16: "-d"}, 10: {8: "-s", 24: "-d"}}
_WIDTHS = {2: 4, 10: 16}
_PROTOCOLS = {2: 9, 10: 6}
_PORTS = {0: "--sport", 2: "--dport"}
_NAME, _REVISION, _DATA = 1, 2, 3  # NFTA_MATCH_*, NFTA_TARGET_*
_PORT_GIVEN = 2  # NF_NAT_RANGE_PROTO_SPECIFIED

_Values = Mapping[str, int | str | bytes]


def read(family: int, chain: str, data: bytes, comment: str) -> takeover.Rule:
    """Read the content of NFTA_RULE_EXPRESSIONS of a rule; `family` 2 or 10."""
    reader = _Reader(family, comment)
    for expression in expressions.decode_expressions(data):
        reader.take(expression.name, dict(expression.attributes))
    return takeover.make_rule(chain, reader.words, reader.target, reader.comment)


class _Reader:
    """What the expressions so far mean; one value at a time is compared."""

    def __init__(self, family: int, comment: str) -> None:
        self._family = family
        self._loaded = ""  # what a register holds, as an option
        self._width = 0
        self._mask: bytes | None = None
        self._value = b""  # what was put into a register
        self.words: list[str] = []
        self.target = takeover.UNKNOWN
        self.comment = comment

    def take(self, name: str, values: _Values) -> None:
        """Take the next expression."""
        match name:
            case "counter":
                pass
            case "meta" if "dreg" in values:
                self._load(_META.get(_number(values, "key"), takeover.UNKNOWN))
            case "ct" if values.get("key") == _CT_MARK and "dreg" in values:
                self._load("--connmark")
            case "payload" if "dreg" in values:
                self._load_payload(values)
            case "bitwise" if "op" not in values and not any(_bytes(values, "xor")):
                self._mask = _bytes(values, "mask")
            case "cmp":
                self.words += self._compare(_number(values, "op"), _bytes(values, "data"))
                self._load("")
            case "immediate":
                self._take_immediate(values)
            case "redir":
                self._take_redirection(values)
            case "?match" | "?target":
                self._take_extension(name, _bytes(values, "?"))
            case _:
                self.words.append(f"{takeover.UNKNOWN} {name}")

    def _load(self, option: str, width: int = 0) -> None:
        self._loaded, self._width, self._mask = option, width, None

    def _load_payload(self, values: _Values) -> None:
        base, offset = _number(values, "base"), _number(values, "offset")
        length = _number(values, "len")
        option = takeover.UNKNOWN
        if base == _TRANSPORT and length == 2:
            option = _PORTS.get(offset, option)
        elif base == _NETWORK and (length, offset) == (1, _PROTOCOLS[self._family]):
            option = "-p"
        elif base == _NETWORK:
            option = _ADDRESSES[self._family].get(offset, option)
        self._load(option, length)

    def _compare(self, operation: int, data: bytes) -> Iterator[str]:
        is_not = operation == _DIFFERS
        prefix = "! " if is_not else ""
        option, mask = self._loaded, self._mask
        if operation not in (_EQUAL, _DIFFERS) or option in ("", takeover.UNKNOWN):
            yield f"{takeover.UNKNOWN} comparison"
        elif option in ("-s", "-d"):
            # Of a prefix of whole bytes only these are compared.
            width = _WIDTHS[self._family]
            mask = mask if mask is not None else b"\xff" * self._width
            yield from xtrules.write_address(
                option, data.ljust(width, b"\0"), mask.ljust(width, b"\0"), is_not=is_not
            )
        elif mask is not None:
            yield f"{takeover.UNKNOWN} mask"
        elif option in ("-i", "-o"):
            name, end, _ = data.partition(b"\0")
            yield f"{prefix}{option} {name.decode(errors='backslashreplace')}{'' if end else '+'}"
        elif option == "-p":
            yield xtrules.write_protocol(framing.be32(data), is_not=is_not)
        elif option in ("--mark", "--connmark"):
            yield f"{prefix}{option} {_native(data):#x}"
        else:
            yield f"{prefix}{option} {framing.be32(data)}"

    def _take_immediate(self, values: _Values) -> None:
        if "verdict" not in values:
            self._value = _bytes(values, "data")
            return
        verdict = _number(values, "verdict")
        if verdict in (_JUMP, _GOTO):
            self.target = str(values.get("chain", takeover.UNKNOWN))
        else:
            self.target = _VERDICTS.get(verdict, takeover.UNKNOWN)

    def _take_redirection(self, values: _Values) -> None:
        is_plain = _number(values, "flags") == _PORT_GIVEN and "proto_min" in values
        port = framing.be32(self._value[:2])
        self.target = f"REDIRECT --to-ports {port}" if is_plain else takeover.UNKNOWN

    def _take_extension(self, kind: str, data: bytes) -> None:
        found = framing.read(data)
        name = framing.text(found.get(_NAME, b""))
        revision, content = framing.be32(found.get(_REVISION, b"")), found.get(_DATA, b"")
        if kind == "?target":
            self.target = xtrules.read_target(self._family, name, revision, content)
        elif name == "comment":
            self.comment = content.split(b"\0", 1)[0].decode(errors="backslashreplace")
        else:
            self.words += xtrules.read_match(name, revision, content)


def _number(values: _Values, key: str) -> int:
    found = values.get(key, -1)
    return found if isinstance(found, int) else -1


def _bytes(values: _Values, key: str) -> bytes:
    found = values.get(key, b"")
    return found if isinstance(found, bytes) else b""


def _native(data: bytes) -> int:
    return int.from_bytes(data, sys.byteorder)
