"""Rules as the expressions that the nf_tables machine runs.

Not here: bytes on the wire (`host.nfnetlink`) and words for people (`nft`).
What is made here is what nft(8) makes of the same words, so that a listing that is loaded with it
gives the same expressions. Numbers: include/uapi/linux/netfilter/nf_tables.h.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

from . import model
from .model import Action, Expr, Field, Operator

DROP, ACCEPT = 0, 1  # NF_DROP, NF_ACCEPT
JUMP, GOTO, RETURN = -3, -4, -5  # NFT_JUMP, NFT_GOTO, NFT_RETURN
EQ, NE = 0, 1  # NFT_CMP_EQ, NFT_CMP_NEQ
LOOKUP_INVERTED = 1  # NFT_LOOKUP_F_INV
REJECT_TCP_RST = 1  # NFT_REJECT_TCP_RST
ADDRESS_SPECIFIED, PORT_SPECIFIED = 1, 2  # NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # NFT_PAYLOAD_*
FLAGS_MASK = b"\x17"  # FIN, SYN, RST, ACK
ORIGINAL = 0  # IP_CT_DIR_ORIGINAL
_IPS_DST_NAT = 1 << 5  # set only where the translated destination differs
COUNTER = Expr("counter")
# From here on the kernel tells of the packet's way: NFT_META_NFTRACE.
TRACE = (
    Expr("immediate", (("dreg", 1), ("data", b"\1"))),
    Expr("meta", (("key", 12), ("sreg", 1))),
)
_NFPROTO = {"ip": 2, "ip6": 10}

_CODES = {
    Action.DROP: DROP,
    Action.RETURN: RETURN,
    Action.JUMP: JUMP,
    Action.GOTO: GOTO,
}


def _meta(key: int) -> Expr:
    return Expr("meta", (("key", key), ("dreg", 1)))


def _payload(base: int, offset: int, length: int) -> Expr:
    return Expr("payload", (("dreg", 1), ("base", base), ("offset", offset), ("len", length)))


def _tracked(key: int) -> Expr:
    """Load something of the connection's first direction; without an entry no rule applies."""
    return Expr("ct", (("dreg", 1), ("key", key), ("direction", ORIGINAL)))


def keep_bits(mask: bytes) -> Expr:
    """Keep some bits of register 1."""
    attributes = (("len", len(mask)), ("mask", mask), ("xor", bytes(len(mask))))
    return Expr("bitwise", (("sreg", 1), ("dreg", 1), *attributes))


def _compare(operator: int, data: bytes) -> Expr:
    return Expr("cmp", (("sreg", 1), ("op", operator), ("data", data)))


IS_IPV4 = (_meta(15), _compare(EQ, b"\x02"))  # NFT_META_NFPROTO is AF_INET
IS_IPV6 = (_meta(15), _compare(EQ, b"\x0a"))
IS_TCP = (_meta(16), _compare(EQ, b"\x06"))  # NFT_META_L4PROTO is IPPROTO_TCP
IS_UDP = (_meta(16), _compare(EQ, b"\x11"))
_IS_ICMP = (_meta(16), _compare(EQ, b"\x01"))
_IS_ICMP6 = (_meta(16), _compare(EQ, b"\x3a"))


class Load(NamedTuple):
    """How a field gets into register 1: what must hold first, the expressions, the size there.

    `order` is that of the number's bytes as in `int.to_bytes`, empty for text. The machine keeps
    what is not of a packet in the order of the host. `is_implied`: nft(8) puts the condition in
    by itself; otherwise it has to be written out.
    """

    condition: tuple[Expr, ...]
    expressions: tuple[Expr, ...]
    size: int
    order: str = "big"
    is_implied: bool = True


# NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR and _F_SADDR: whatever interface the packet came by
_TYPE_OF_DADDR = Expr("fib", (("dreg", 1), ("result", 3), ("flags", 2)))
_TYPE_OF_SADDR = Expr("fib", (("dreg", 1), ("result", 3), ("flags", 1)))
_MARK = 3  # NFT_META_MARK, NFT_CT_MARK
_CONTROL_GROUP = 3  # NFT_SOCKET_CGROUPV2, since Linux 5.13
_TRANSPARENT = 0  # NFT_SOCKET_TRANSPARENT
_STATUS = Expr("ct", (("dreg", 1), ("key", 2)))  # NFT_CT_STATUS
_STATE = Expr("ct", (("dreg", 1), ("key", 0)))  # NFT_CT_STATE
_INVALID = 1  # NF_CT_STATE_INVALID_BIT

LOADS = {
    Field.L4PROTO: Load((), (_meta(16),), 1),
    Field.IIFNAME: Load((), (_meta(6),), 16, ""),
    Field.OIFNAME: Load((), (_meta(7),), 16, ""),
    Field.SKUID: Load((), (_meta(10),), 4, sys.byteorder),
    Field.SKGID: Load((), (_meta(11),), 4, sys.byteorder),
    Field.CONTROL_GROUP: Load((), (), 8, sys.byteorder),  # loaded at a level: see `load_of`
    Field.SOCKET_TRANSPARENT: Load((), (Expr("socket", (("key", _TRANSPARENT), ("dreg", 1))),), 1),
    Field.IP_SADDR: Load(IS_IPV4, (_payload(NETWORK_HEADER, 12, 4),), 4),
    Field.IP_DADDR: Load(IS_IPV4, (_payload(NETWORK_HEADER, 16, 4),), 4),
    Field.IP6_SADDR: Load(IS_IPV6, (_payload(NETWORK_HEADER, 8, 16),), 16),
    Field.IP6_DADDR: Load(IS_IPV6, (_payload(NETWORK_HEADER, 24, 16),), 16),
    Field.SPORT: Load(IS_TCP, (_payload(TRANSPORT_HEADER, 0, 2),), 2),
    Field.DPORT: Load(IS_TCP, (_payload(TRANSPORT_HEADER, 2, 2),), 2),
    Field.UDP_SPORT: Load(IS_UDP, (_payload(TRANSPORT_HEADER, 0, 2),), 2),
    Field.UDP_DPORT: Load(IS_UDP, (_payload(TRANSPORT_HEADER, 2, 2),), 2),
    # Behind the heads of ICMP and of the IP packet that follows: 8 and 20, or 40, bytes.
    Field.ICMP_DPORT: Load(_IS_ICMP, (_payload(TRANSPORT_HEADER, 30, 2),), 2, is_implied=False),
    Field.ICMP6_DPORT: Load(_IS_ICMP6, (_payload(TRANSPORT_HEADER, 50, 2),), 2, is_implied=False),
    Field.TCP_FLAGS: Load(IS_TCP, (_payload(TRANSPORT_HEADER, 13, 1), keep_bits(FLAGS_MASK)), 1),
    Field.FIB_DADDR_TYPE: Load((), (_TYPE_OF_DADDR,), 4, sys.byteorder),
    Field.FIB_SADDR_TYPE: Load((), (_TYPE_OF_SADDR,), 4, sys.byteorder),
    Field.MARK: Load((), (_meta(_MARK),), 4, sys.byteorder),
    Field.CT_MARK: Load((), (Expr("ct", (("dreg", 1), ("key", _MARK))),), 4, sys.byteorder),
    Field.CT_STATUS_DNAT: Load(
        (), (_STATUS, keep_bits(_IPS_DST_NAT.to_bytes(4, sys.byteorder))), 4, sys.byteorder
    ),
    Field.CT_STATE_INVALID: Load(
        (), (_STATE, keep_bits(_INVALID.to_bytes(4, sys.byteorder))), 4, sys.byteorder
    ),
    # NFT_CT_DST_IP, NFT_CT_DST_IP6 (both since Linux 4.17), NFT_CT_PROTO_DST
    Field.ORIGINAL_IP_DADDR: Load((), (_tracked(20),), 4),
    Field.ORIGINAL_IP6_DADDR: Load((), (_tracked(22),), 16),
    Field.ORIGINAL_DPORT: Load(IS_TCP, (_tracked(12),), 2, is_implied=False),
}


def load_of(match: model.Match) -> Load:
    """How the field of a condition gets into the register."""
    load = LOADS[match.field]
    if match.field is not Field.CONTROL_GROUP:
        return load
    attributes = (("key", _CONTROL_GROUP), ("dreg", 1), ("level", match.level))
    return load._replace(expressions=(Expr("socket", attributes),))


def read_level(expression: Expr) -> int:
    """At which level control groups are loaded; 0: something else is."""
    values = dict(expression.attributes)
    is_group = expression.name == "socket" and values.get("key") == _CONTROL_GROUP
    return int(values.get("level", 0)) if is_group and len(values) == 3 else 0


def _keep(family: str, field: Field) -> tuple[Expr, ...]:
    """Translate the destination to what it is: a connection is translated once, by the first."""
    translate = (
        *(("type", 1), ("family", _NFPROTO[family])),  # NFT_NAT_DNAT
        *(("addr_min", 1), ("addr_max", 1), ("flags", ADDRESS_SPECIFIED)),
    )
    return (*LOADS[field].expressions, Expr("nat", translate))


REDIRECT = Expr("redir", (("proto_min", 1), ("proto_max", 1), ("flags", PORT_SPECIFIED)))
# To the socket that has the connection, or else listens on the port; without one it goes on with
# the next rule (nft_tproxy_eval_v4()).
TPROXY = Expr("tproxy", (("family", 0), ("port", 1)))
SAVE_MARK = (_meta(_MARK), Expr("ct", (("key", _MARK), ("sreg", 1))))
RESTORE_MARK = (*LOADS[Field.CT_MARK].expressions, Expr("meta", (("key", _MARK), ("sreg", 1))))
SET_ZONE = Expr("ct", (("key", 17), ("sreg", 1)))  # NFT_CT_ZONE
KEEP = {"ip": _keep("ip", Field.IP_DADDR), "ip6": _keep("ip6", Field.IP6_DADDR)}


def compile_table(table: model.Table, owner: model.Owner) -> model.TableState:
    """Give the state that the kernel must show once the table is in."""
    chains = tuple(
        model.ChainState(chain.name, tuple(map(compile_rule, chain.rules)), chain.hook)
        for chain in table.chains
    )
    return model.TableState(table.name, table.sets, chains, owner, timeouts=table.timeouts)


def compile_rule(rule: model.Rule) -> model.RuleState:
    """Turn conditions and verdict into expressions; each condition that others need comes once."""
    done: list[tuple[Expr, ...]] = []
    expressions: list[Expr] = []
    if rule.verdict.action is Action.REJECT:  # nft puts it first where a reset needs it
        done.append(IS_TCP)
        expressions += IS_TCP
    for match in rule.matches:
        load = load_of(match)
        if load.condition and load.condition not in done:
            done.append(load.condition)
            expressions += load.condition
        is_part = 0 < match.prefix < 8 * load.size
        bits = (keep_bits(prefix_mask(match.prefix, load.size)),) if is_part else ()
        condition = (*load.expressions, *bits, _condition(match, load))
        if condition not in done:
            done.append(condition)
            expressions += condition
    expressions.append(COUNTER)
    if rule.timeout:
        expressions.append(Expr("objref", (("name", rule.timeout), ("type", model.CT_TIMEOUT))))
    return model.RuleState((*expressions, *_verdict(rule.verdict)), rule.comment)


def prefix_mask(prefix: int, size: int) -> bytes:
    """Give the mask of so many leading bits."""
    return ((1 << prefix) - 1 << (8 * size - prefix)).to_bytes(size, "big")


def _condition(match: model.Match, load: Load) -> Expr:
    if match.operator is Operator.IN:
        return Expr("lookup", (("set", match.value), ("sreg", 1)))
    if match.operator is Operator.NOT_IN:
        return Expr("lookup", (("set", match.value), ("sreg", 1), ("flags", LOOKUP_INVERTED)))
    operator = EQ if match.operator is Operator.EQ else NE
    return _compare(operator, encode_value(match.value, load))


def encode_value(value: int | str, load: Load) -> bytes:
    """Give a number or an interface name as it lies in the register."""
    if isinstance(value, str):
        # Only so many bytes are compared as are given.
        name = value.encode()
        return name[:-1] if name.endswith(b"*") else name.ljust(load.size, b"\0")
    return value.to_bytes(load.size, "little" if load.order == "little" else "big")


def decode_value(data: bytes, load: Load) -> int | str:
    """Read a number or an interface name from the register."""
    if not load.order:
        wildcard = "*" if len(data) < load.size else ""
        return data.rstrip(b"\0").decode(errors="backslashreplace") + wildcard
    return int.from_bytes(data, "little" if load.order == "little" else "big")


def _verdict(verdict: model.Verdict) -> Iterator[Expr]:
    if verdict.action is Action.REDIRECT:
        port = int(verdict.target).to_bytes(2, "big")
        yield Expr("immediate", (("dreg", 1), ("data", port)))
        yield REDIRECT
    elif verdict.action is Action.TPROXY:
        port = int(verdict.target).to_bytes(2, "big")
        yield Expr("immediate", (("dreg", 1), ("data", port)))
        yield TPROXY
        yield Expr("immediate", (("dreg", 0), ("verdict", ACCEPT)))
    elif verdict.action in (Action.SAVE_MARK, Action.RESTORE_MARK):
        yield from SAVE_MARK if verdict.action is Action.SAVE_MARK else RESTORE_MARK
    elif verdict.action is Action.KEEP:
        yield from KEEP[str(verdict.target)]
    elif verdict.action is Action.ZONE:
        zone = int(verdict.target).to_bytes(2, sys.byteorder)
        yield Expr("immediate", (("dreg", 1), ("data", zone)))
        yield SET_ZONE
    elif verdict.action is Action.REJECT:
        yield Expr("reject", (("type", REJECT_TCP_RST),))
    else:
        attributes: tuple[tuple[str, int | str], ...] = (
            ("dreg", 0),
            ("verdict", _CODES[verdict.action]),
        )
        if verdict.action in (Action.JUMP, Action.GOTO):
            attributes += (("chain", verdict.target),)
        yield Expr("immediate", attributes)
