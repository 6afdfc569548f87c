"""Whether the words of `iptables -S` show all that a rule of a table of iptables-nft asks for.

iptables-nft leaves out what it has no words for, such as a look-up in a set of nft's: the words
then say less than the rule. Each expression of the rule must be one that an option of the words
makes, each once. Source: iptables/nft-shared.c and nft-ruleparse.c of iptables 1.8.9 to 1.8.11.
"""

from collections.abc import Iterator, Mapping, Sequence

from ..redirect import model, words
from .nfnetlink import framing

_PORTS = {"--sport": (0, 2), "--dport": (2, 2)}
_TRANSPORT, _NETWORK = 2, 1  # NFT_PAYLOAD_*_HEADER
_META = {"-i": 6, "-o": 7, "-p": 16, "--mark": 3}  # NFT_META_*
_ADDRESSES = {
    "ip": {"-s": (12, 4), "-d": (16, 4), "-p": (9, 1)},
    "ip6": {"-s": (8, 16), "-d": (24, 16), "-p": (6, 1)},
}
_FLAGS = (_TRANSPORT, 13, 1)
_EQUAL, _NOT_EQUAL = 0, 1  # NFT_CMP_*
_LAST = ("immediate", "reject", "?target", "?log")
_MATCH_NAME = 1  # NFTA_MATCH_NAME
# What is looked at: of metadata its key, of the packet header, offset and length.
_Load = tuple[int, ...]


def are_all(rule: Sequence[str], expressions: Sequence[model.Expr], family: str) -> bool:
    """Whether the expressions of a rule are accounted for by its words."""
    return _Check(rule, family).passes(expressions)


class _Check:
    def __init__(self, rule: Sequence[str], family: str) -> None:
        self._options = list(words.parse(rule))
        self._modules = [each.values[0] for each in self._options if each.name == "-m"]
        self._loads = dict(self._explained(family))
        self._pending: _Load | None = None

    def _explained(self, family: str) -> Iterator[tuple[_Load, words.Option]]:
        """Give what the options look at."""
        named = {each.name: each for each in self._options}
        for name, option in named.items():
            if name in _META:
                yield (_META[name],), option
            if name in _ADDRESSES[family]:
                offset, width = _ADDRESSES[family][name]
                for length in range(1, width + 1):  # a prefix of whole bytes is so short
                    yield (_NETWORK, offset, length), option
            if name in _PORTS:
                yield (_TRANSPORT, *_PORTS[name]), option
            if name == "--tcp-flags":
                yield _FLAGS, option
        if _PORTS.keys() <= named.keys():
            yield (_TRANSPORT, 0, 4), named["--dport"]

    def passes(self, expressions: Sequence[model.Expr]) -> bool:
        counters = [each for each in expressions if each.name == "counter"]
        is_last = [number for number, each in enumerate(expressions) if each.name in _LAST]
        is_ended = is_last in ([], [len(expressions) - 1])
        return (
            len(counters) <= 1
            and is_ended
            and all(map(self._take, expressions))
            and self._pending is None
        )

    def _take(self, each: model.Expr) -> bool:
        if each.name in ("meta", "payload"):
            return self._load(dict(each.attributes))
        if each.name in ("bitwise", "cmp", "?range"):
            return self._pending is not None and self._compare(each)
        if self._pending is not None:
            return False
        if each.name == "?match":
            return self._match(each)
        if each.name == "?limit":
            return self._take_module("limit")
        return each.name == "counter" or each.name in _LAST

    def _load(self, values: dict[str, int | str | bytes]) -> bool:
        if self._pending is not None or "sreg" in values or any(n[0] == "?" for n in values):
            return False
        named = ("key",) if "key" in values else ("base", "offset", "len")
        load = tuple(int(values[name]) for name in named)
        option = self._loads.get(load)
        if option is None:
            return False
        # Each option once, in whichever of its forms.
        both = load == (_TRANSPORT, 0, 4)
        self._option = option
        self._loads = {
            key: value
            for key, value in self._loads.items()
            if value is not option and not (both and value.name in _PORTS)
        }
        self._pending = load
        return True

    def _compare(self, each: model.Expr) -> bool:
        values = dict(each.attributes)
        load = self._pending or ()
        is_of_ports = load[:1] == (_TRANSPORT,) and load != _FLAGS and len(load) > 1
        if each.name == "bitwise":
            is_plain = "op" not in values and not any(_data(values, "xor"))
            return is_plain and not is_of_ports and load != (_META["-p"],)
        self._pending = None
        if each.name == "?range":
            return is_of_ports and load[2] == 2
        if values.get("op") not in (_EQUAL, _NOT_EQUAL):
            return False
        if not is_of_ports or load[2] != 2:
            return True
        is_negated = values["op"] == _NOT_EQUAL
        data = int.from_bytes(_data(values, "data"), "big")
        return (str(data), is_negated) == (self._option.values[0], self._option.is_negated)

    def _match(self, each: model.Expr) -> bool:
        data = _data(dict(each.attributes), "?")
        name = framing.text(framing.read(data)[_MATCH_NAME])
        if name == "tcp":  # which then looks at the ports itself
            self._loads = {
                key: value for key, value in self._loads.items() if value.name not in _PORTS
            }
        return self._take_module(name)

    def _take_module(self, name: str) -> bool:
        if name not in self._modules:
            return False
        self._modules.remove(name)
        return True


def _data(values: Mapping[str, int | str | bytes], name: str) -> bytes:
    found = values.get(name, b"")
    return found if isinstance(found, bytes) else b""
