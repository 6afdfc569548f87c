"""Chains that follow frames through this host, from the first hook to the last, and drop them.

Not here: how the frames get in (`probedevice`), and the table that these chains are part of
(`probetable`). A frame is told from everybody else's packets by its TCP sequence number. One that
is not to be captured carries, while destinations are translated, the flags of an answer: our
rules leave it alone for these, and those of others do not look at them (docker, kube-proxy). What
others answer to a frame, a reset or an ICMP error, is dropped before it leaves.
"""

import enum
import ipaddress
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..redirect import expressions, model
from ..redirect.model import Expr, Field
from .nfnetlink import messages

# Bits of the sequence number. The lowest stays free: a reset acknowledges the number after it.
_TRACED, _DIRECT = 2, 4
_MARKS = 7
_SYN, _SYN_ACK = b"\x02", b"\x12"
_PREROUTING, _INPUT, _FORWARD, _OUTPUT = 0, 1, 2, 3
# Netfilter's own are at the very ends: the last hook before an entry would be confirmed.
_FIRST, _LAST = -(1 << 31) + 1, (1 << 31) - 2
_BEFORE_DNAT, _AFTER_DNAT, _TRANSLATED = -102, -99, -90
_ENTERED = "frames_entered"
_SETS = {"way_v4": (203, 16), "way_v6": (204, 28)}
# Registers of four bytes, one after another: the key of a set.
_STAGE, _SPORT, _DPORT, _DADDR = 8, 9, 10, 11
_DROP = Expr("immediate", (("dreg", 0), ("verdict", expressions.DROP)))
_TRANSPORT = expressions.TRANSPORT_HEADER


class Stage(enum.IntEnum):
    """How far a frame got."""

    ENTERED = 1  # the first hook
    TRANSLATED = 2  # behind all translation of destinations
    ROUTED = 3  # to this host: the first hook of input
    ARRIVED = 4  # the last hook of input, or of forward


class Step(NamedTuple):
    """A frame at a stage: its source port, and where it was going, the address as it was there."""

    stage: Stage
    source_port: int
    packed: bytes
    port: int

    @property
    def address(self) -> str:
        """In words, which few of many are asked for."""
        return str(ipaddress.ip_address(self.packed))


class Frames:
    """What tells the frames of one table."""

    def __init__(self) -> None:
        """Choose numbers that nobody has."""
        self._cookie = int.from_bytes(os.urandom(4), "big") & ~_MARKS

    def sequence(self, *, is_direct: bool, is_traced: bool = False) -> int:
        """Give the sequence number of a frame; `is_direct`: it is not to be captured."""
        return self._cookie | (_DIRECT if is_direct else 0) | (_TRACED if is_traced else 0)

    def build(self, table: str) -> Iterator[messages.Message]:
        """Give the chains and sets."""
        for name, (number, length) in _SETS.items():
            yield messages.new_recording_set(table, name, number, length)
        hooks = (
            (_ENTERED, _PREROUTING, _FIRST, self._record(Stage.ENTERED)),
            ("frames_hidden", _PREROUTING, _BEFORE_DNAT, [self._set_flags(_SYN_ACK)]),
            ("frames_shown", _PREROUTING, _AFTER_DNAT, [self._set_flags(_SYN)]),
            ("frames_going", _PREROUTING, _TRANSLATED, self._record(Stage.TRANSLATED)),
            ("frames_routed", _INPUT, _FIRST, self._record(Stage.ROUTED)),
            ("frames_in", _INPUT, _LAST, self._record(Stage.ARRIVED, _DROP)),
            ("frames_through", _FORWARD, _LAST, self._record(Stage.ARRIVED, _DROP)),
            ("frames_out", _OUTPUT, _FIRST, self._drop_answers()),
        )
        for name, number, priority, rules in hooks:
            yield messages.new_chain(table, name, model.Hook("filter", number, priority))
            for rule in rules:
                yield messages.new_rule(table, name, model.RuleState(tuple(rule), "probe"))

    def trace(self, table: str) -> Iterator[messages.Message]:
        """Give the rule from which on a frame that asks for it is traced."""
        rule = (*expressions.IS_TCP, *self._is_ours(_TRACED, 4), *expressions.TRACE)
        yield messages.new_rule(table, _ENTERED, model.RuleState(rule, "probe"))

    def _is_ours(self, mark: int, offset: int) -> tuple[Expr, ...]:
        """Compare a number of the TCP header; with a `mark` that one has to be there."""
        mask = 0xFFFFFFFF & ~_MARKS | mark
        value = self._cookie | mark
        return (
            _load(offset, 4),
            _mask(mask),
            Expr("cmp", (("sreg", 1), ("op", expressions.EQ), ("data", value.to_bytes(4, "big")))),
        )

    def _record(self, stage: Stage, *verdict: Expr) -> list[Iterable[Expr]]:
        rules: list[Iterable[Expr]] = []
        for name, family, daddr in (
            ("way_v4", expressions.IS_IPV4, Field.IP_DADDR),
            ("way_v6", expressions.IS_IPV6, Field.IP6_DADDR),
        ):
            number = int(stage).to_bytes(4, "big")
            rules.append(
                (
                    *(*family, *expressions.IS_TCP, *self._is_ours(0, 4)),
                    Expr("immediate", (("dreg", _STAGE), ("data", number))),
                    *(_load(0, 2, _SPORT), _load(2, 2, _DPORT)),
                    _into(expressions.LOADS[daddr].expressions[0], _DADDR),
                    Expr("dynset", (("sreg", _STAGE), ("op", 0), ("set", name))),
                    *verdict,
                )
            )
        return rules

    def _set_flags(self, flags: bytes) -> Iterable[Expr]:
        """Change the TCP flags of a frame that is not to be captured, without its checksum."""
        where = (("base", _TRANSPORT), ("offset", 13), ("len", 1), ("sreg", 1))
        return (
            *(*expressions.IS_TCP, *self._is_ours(_DIRECT, 4)),
            Expr("immediate", (("dreg", 1), ("data", flags))),
            Expr("payload", where),
        )

    def _drop_answers(self) -> list[Iterable[Expr]]:
        """A reset acknowledges a frame; an ICMP error carries its headers, without options."""
        return [
            (*expressions.IS_TCP, *self._is_ours(0, 8), _DROP),
            (*_is_protocol(1), *self._is_ours(0, 8 + 20 + 4), _DROP),
            (*_is_protocol(58), *self._is_ours(0, 8 + 40 + 4), _DROP),
            # Nor does a frame leave by a balancer that takes it at input (IPVS).
            (*expressions.IS_TCP, *self._is_ours(0, 4), _DROP),
        ]


def read(keys: Iterable[bytes]) -> Iterator[Step]:
    """Read the keys of a set of ways."""
    for key in keys:
        stage, source, port = (
            int.from_bytes(key[:4], "big"),
            int.from_bytes(key[4:6], "big"),
            int.from_bytes(key[8:10], "big"),
        )
        yield Step(Stage(stage), source, key[12:], port)


SETS = tuple(_SETS)


def _load(offset: int, length: int, register: int = 1) -> Expr:
    where = (("base", _TRANSPORT), ("offset", offset), ("len", length))
    return Expr("payload", (("dreg", register), *where))


def _mask(mask: int) -> Expr:
    attributes = (("len", 4), ("mask", mask.to_bytes(4, "big")), ("xor", bytes(4)))
    return Expr("bitwise", (("sreg", 1), ("dreg", 1), *attributes))


def _is_protocol(number: int) -> tuple[Expr, ...]:
    load, compare = expressions.IS_TCP
    attributes = dict(compare.attributes) | {"data": bytes((number,))}
    return load, Expr("cmp", tuple(attributes.items()))


def _into(load: Expr, register: int) -> Expr:
    return Expr(
        load.name,
        tuple((key, register if key == "dreg" else value) for key, value in load.attributes),
    )
