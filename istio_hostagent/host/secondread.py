"""The same rules read by somebody else's decoder: pyroute2.

Not here: our codec, on purpose: nothing of it is used, so that an error in it cannot hide itself.
What pyroute2 cannot name, and what we do not know, becomes a `?` that equals nothing of ours.
Works with pyroute2 0.7.2 (Debian 12) and 0.7.7 (Debian 13). Only workers import this.
"""

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyroute2 import IPRoute
from pyroute2 import config as libraryconfig
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nfgen_msg, nftsocket

from ..config.packed import PackedRanges, pack
from ..errors import KernelBusy, NotPermitted
from ..redirect import model
from . import garbage

# Answers are given as they come, not as a whole.
libraryconfig.nlm_generator = True
_INET = 1
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_CT_TIMEOUT = 7  # NFT_OBJECT_CT_TIMEOUT
_EXPR = nftsocket.nft_contains_expr.nft_expr
_REGISTERS = {name: number for number, name in nftsocket.nft_regs.regs.ops.items()}
_VERDICTS = {
    name: number for number, name in nftsocket.nft_data.nfta_data.verdict.verdict_code.ops.items()
}
_KEY_TYPES = {7: ("ipv4_addr", 4), 8: ("ipv6_addr", 16), 13: ("inet_service", 2)}
# Of a set, what a plain interval set has; newer kernels tell more than pyroute2 knows.
_PLAIN_SET = frozenset(
    f"NFTA_SET_{each}"
    for each in ("TABLE", "NAME", "HANDLE", "FLAGS", "KEY_TYPE", "KEY_LEN", "DESC", "USERDATA")
) | {"UNKNOWN"}
_INTERVAL_END = frozenset((1, "NFT_SET_ELEM_INTERVAL_END"))  # the name differs with the version
_NO_FLAGS: frozenset[Any] = frozenset()
_MAX_TRIES = 20
# So many parts of an answer are there at once, with some hundred elements each: what the library
# makes of them hangs in circles, and 100 000 networks took 450 MB.
_PARTS_AT_ONCE = 4
_LOCAL = 2  # RTN_LOCAL


def _numbers(kind: str, name: str) -> dict[str, int]:
    """Turn pyroute2's names for the values of one attribute back into numbers."""
    return {text: number for number, text in getattr(getattr(_EXPR, kind), name).ops.items()}


def _bits(flags: Sequence[str]) -> dict[str, int]:
    return {name: 1 << bit for bit, name in enumerate(flags)}


# Expression, then for each attribute of pyroute2 in our order: our name, and the values of names.
_ATTRIBUTES: dict[str, dict[str, tuple[str, dict[str, int]]]] = {
    "meta": {
        "NFTA_META_KEY": ("key", _numbers("nft_meta", "meta_key")),
        "NFTA_META_DREG": ("dreg", _REGISTERS),
        "NFTA_META_SREG": ("sreg", _REGISTERS),
    },
    "payload": {
        "NFTA_PAYLOAD_DREG": ("dreg", _REGISTERS),
        "NFTA_PAYLOAD_BASE": ("base", _numbers("nft_payload", "base_type")),
        "NFTA_PAYLOAD_OFFSET": ("offset", {}),
        "NFTA_PAYLOAD_LEN": ("len", {}),
    },
    "ct": {
        "NFTA_CT_DREG": ("dreg", _REGISTERS),
        "NFTA_CT_KEY": ("key", _numbers("nft_ct", "keys")),
        "NFTA_CT_DIRECTION": ("direction", {}),
        "NFTA_CT_SREG": ("sreg", _REGISTERS),
    },
    # pyroute2 takes the result for flags and the flags for one of them: as numbers they are right.
    "fib": {
        "NFTA_FIB_DREG": ("dreg", _REGISTERS),
        "NFTA_FIB_RESULT": ("result", _bits(_EXPR.nft_fib.fib_result.ops)),
        "NFTA_FIB_FLAGS": ("flags", _numbers("nft_fib", "fib_flags")),
    },
    "cmp": {
        "NFTA_CMP_SREG": ("sreg", _REGISTERS),
        "NFTA_CMP_OP": ("op", _numbers("nft_cmp", "ops")),
        "NFTA_CMP_DATA": ("data", {}),
    },
    "bitwise": {
        "NFTA_BITWISE_SREG": ("sreg", _REGISTERS),
        "NFTA_BITWISE_DREG": ("dreg", _REGISTERS),
        "NFTA_BITWISE_LEN": ("len", {}),
        "NFTA_BITWISE_OP": ("op", _numbers("nft_bitwise", "bitwise_op")),
        "NFTA_BITWISE_MASK": ("mask", {}),
        "NFTA_BITWISE_XOR": ("xor", {}),
    },
    "lookup": {
        "NFTA_LOOKUP_SET": ("set", {}),
        "NFTA_LOOKUP_SREG": ("sreg", _REGISTERS),
        "NFTA_LOOKUP_DREG": ("dreg", _REGISTERS),
        "NFTA_LOOKUP_FLAGS": ("flags", _bits(_EXPR.nft_lookup.lookup_flags.ops)),
    },
    "immediate": {
        "NFTA_IMMEDIATE_DREG": ("dreg", _REGISTERS),
        "NFTA_IMMEDIATE_DATA": ("data", {}),
    },
    "nat": {
        "NFTA_NAT_TYPE": ("type", _numbers("nft_nat", "types")),
        "NFTA_NAT_FAMILY": ("family", {}),
        "NFTA_NAT_REG_ADDR_MIN": ("addr_min", _REGISTERS),
        "NFTA_NAT_REG_ADDR_MAX": ("addr_max", _REGISTERS),
        "NFTA_NAT_REG_PROTO_MIN": ("proto_min", _REGISTERS),
        "NFTA_NAT_REG_PROTO_MAX": ("proto_max", _REGISTERS),
        "NFTA_NAT_FLAGS": ("flags", _bits(nftsocket.nat_flags.nat_range.ops)),
    },
    "redir": {
        "NFTA_REDIR_REG_PROTO_MIN": ("proto_min", _REGISTERS),
        "NFTA_REDIR_REG_PROTO_MAX": ("proto_max", _REGISTERS),
        "NFTA_REDIR_FLAGS": ("flags", _bits(nftsocket.nat_flags.nat_range.ops)),
    },
    "objref": {
        "NFTA_OBJREF_IMM_NAME": ("name", {}),
        "NFTA_OBJREF_IMM_TYPE": ("type", {}),
    },
    "tproxy": {
        # pyroute2 takes the family for a register: 0 is both families.
        "NFTA_TPROXY_FAMILY": ("family", _REGISTERS),
        "NFTA_TPROXY_REG_ADDR": ("address", _REGISTERS),
        "NFTA_TPROXY_REG_PORT": ("port", _REGISTERS),
    },
    "socket": {
        "NFTA_SOCKET_KEY": ("key", {}),
        "NFTA_SOCKET_DREG": ("dreg", _REGISTERS),
        "NFTA_SOCKET_LEVEL": ("level", {}),
    },
    "reject": {"NFTA_REJECT_TYPE": ("type", _numbers("nft_reject", "types"))},
    "counter": {},
}
_TCP_STATES = {"close": "CLOSE", "syn_sent": "SYN_SENT"}
# pyroute2 takes the type of an object for the number of a register, and knows none of 7.
_EXPR.nft_objref.nla_map = tuple(
    (name, "be32" if name == "NFTA_OBJREF_IMM_TYPE" else form)
    for name, form in _EXPR.nft_objref.nla_map
)
# It knows neither the key for control groups (3) nor their level.
_EXPR.nft_socket.nla_map = (
    ("NFTA_SOCKET_UNSPEC", "none"),
    ("NFTA_SOCKET_KEY", "be32"),
    ("NFTA_SOCKET_DREG", "regs"),
    ("NFTA_SOCKET_LEVEL", "be32"),
)
_UNCOUNTED = ("NFTA_COUNTER_BYTES", "NFTA_COUNTER_PACKETS")
_DEFAULTS = {("lookup", "flags"): 0, ("bitwise", "op"): 0}


class _Object(nfgen_msg):  # type: ignore[misc]
    """A stateful object, which pyroute2 does not know: of all kinds the timeout policy of TCP."""

    prefix = "NFTA_OBJ_"
    nla_map = (
        ("NFTA_OBJ_UNSPEC", "none"),
        ("NFTA_OBJ_TABLE", "asciiz"),
        ("NFTA_OBJ_NAME", "asciiz"),
        ("NFTA_OBJ_TYPE", "be32"),
        ("NFTA_OBJ_DATA", "policy"),
    )

    class policy(nla):  # type: ignore[misc] # noqa: N801 - the word in the map above
        """How long an entry stays in each state."""

        nla_map = (
            ("NFTA_CT_TIMEOUT_UNSPEC", "none"),
            ("NFTA_CT_TIMEOUT_L3PROTO", "be16"),
            ("NFTA_CT_TIMEOUT_L4PROTO", "uint8"),
            ("NFTA_CT_TIMEOUT_DATA", "states"),
        )

        class states(nla):  # type: ignore[misc] # noqa: N801
            """By CTA_TIMEOUT_TCP_*."""

            nla_map = (
                ("UNSPEC", "none"),
                ("SYN_SENT", "be32"),
                *((f"STATE_{number}", "be32") for number in range(2, 8)),
                ("CLOSE", "be32"),
                *((f"STATE_{number}", "be32") for number in range(9, 12)),
            )


def observe(addresses: Sequence[str]) -> model.Observed:
    """Give our tables, and which of `addresses` are on `lo`; raises KernelBusy, NotPermitted."""
    for _ in range(_MAX_TRIES):
        try:
            with nftsocket.NFTSocket(nfgen_family=_INET) as sock:
                sock.register_policy({_SUBSYSTEM | nftsocket.NFT_MSG_NEWOBJ: _Object})
                generation = _generation(sock)
                tables = _read_tables(sock)
                is_whole = generation == _generation(sock)
        except NetlinkError as error:
            if error.code in (errno.EPERM, errno.EACCES):
                raise NotPermitted("reading rules needs CAP_NET_ADMIN") from error
            continue  # something went away between two requests
        if is_whole:
            return model.Observed(
                tables, _read_addresses(addresses), routing=tuple(_read_routing())
            )
    raise KernelBusy("others keep changing the rules while they are read")


def _generation(sock: Any) -> int:
    (found,) = sock.request_get(nfgen_msg(), nftsocket.NFT_MSG_GETGEN, msg_flags=1)
    return int(found.get_attr("NFTA_GEN_ID"))


def _read_addresses(addresses: Sequence[str]) -> tuple[str, ...]:
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname="lo")
        found = {
            f"{each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
            for each in route.get_addr(index=index)
        }
    return tuple(each for each in addresses if each in found)


def _read_routing() -> Iterator[model.Routing]:
    ours = model.ROUTING_PROTOCOL
    with IPRoute() as route:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            tables: set[int] = set()
            for each in route.get_rules(family=family):
                if each.get_attr("FRA_PROTOCOL") not in (ours, f"{ours:02x}"):
                    continue
                table = each.get_attr("FRA_TABLE")
                tables.add(table)
                mask = each.get_attr("FRA_FWMASK")
                yield model.Routing(
                    "rule",
                    version,
                    each.get_attr("FRA_FWMARK") or 0,
                    table,
                    each.get_attr("FRA_PRIORITY") or 0,
                    model.EVERY_BIT if mask is None else mask,
                )
            for table in sorted(tables):
                for each in route.get_routes(family=family, table=table):
                    if each["proto"] == ours:
                        is_local = each["type"] == _LOCAL and not each["dst_len"]
                        is_local &= each.get_attr("RTA_OIF") == 1
                        yield model.Routing(
                            "route" if is_local else "changed route", version, 0, table
                        )


def _dump(sock: Any, command: int, message: Any = None) -> Iterator[Any]:
    request = message if message is not None else nfgen_msg()
    for found in sock.request_get(request, command):
        if found["nfgen_family"] == _INET:
            yield found


def _read_tables(sock: Any) -> tuple[model.TableState, ...]:
    heads = {
        each.get_attr("NFTA_TABLE_NAME"): each.get_attr("NFTA_TABLE_FLAGS") or 0
        for each in _dump(sock, nftsocket.NFT_MSG_GETTABLE)
    }
    rules: dict[tuple[str, str], list[model.RuleState]] = {}
    for each in _dump(sock, nftsocket.NFT_MSG_GETRULE):
        key = each.get_attr("NFTA_RULE_TABLE"), each.get_attr("NFTA_RULE_CHAIN")
        rules.setdefault(key, []).append(_rule(each))
    chains: dict[str, list[model.ChainState]] = {}
    for each in _dump(sock, nftsocket.NFT_MSG_GETCHAIN):
        table, name = each.get_attr("NFTA_CHAIN_TABLE"), each.get_attr("NFTA_CHAIN_NAME")
        state = model.ChainState(name, tuple(rules.get((table, name), ())), _hook(each))
        chains.setdefault(table, []).append(state)
    sets: dict[str, list[model.NamedSet]] = {}
    # All of them, before anything else is asked.
    for each in list(_dump(sock, nftsocket.NFT_MSG_GETSET)):
        table = each.get_attr("NFTA_SET_TABLE")
        if table in model.OUR_TABLES:
            sets.setdefault(table, []).append(_set(sock, table, each))
    timeouts: dict[str, list[model.Timeout]] = {}
    for each in _dump(sock, nftsocket.NFT_MSG_GETOBJ, _Object()):
        timeouts.setdefault(each.get_attr("NFTA_OBJ_TABLE"), []).append(_timeout(each))
    return tuple(
        model.TableState(
            name,
            tuple(sorted(sets.get(name, ()))),
            tuple(sorted(chains.get(name, ()), key=lambda chain: chain.name)),
            is_dormant=_is_dormant(heads[name]),
            timeouts=tuple(sorted(timeouts.get(name, ()))),
        )
        for name in sorted(heads.keys() & set(model.OUR_TABLES))
    )


def _timeout(found: Any) -> model.Timeout:
    name, kind = found.get_attr("NFTA_OBJ_NAME"), found.get_attr("NFTA_OBJ_TYPE")
    policy = found.get_attr("NFTA_OBJ_DATA")
    if kind != _CT_TIMEOUT or policy.get_attr("NFTA_CT_TIMEOUT_L4PROTO") != 6:
        return model.Timeout(name, (), kind)
    states = policy.get_attr("NFTA_CT_TIMEOUT_DATA")
    seconds = ((ours, states.get_attr(theirs)) for ours, theirs in _TCP_STATES.items())
    return model.Timeout(name, tuple(sorted(seconds)), kind)


def _is_dormant(flags: Any) -> bool:
    """0.7.2 gives a number, later versions names."""
    return bool(flags & 1) if isinstance(flags, int) else "NFT_TABLE_F_DORMANT" in flags


def _hook(chain: Any) -> model.Hook | None:
    place = chain.get_attr("NFTA_CHAIN_HOOK")
    if place is None:
        return None
    kind = str(chain.get_attr("NFTA_CHAIN_TYPE"))
    if place.get_attr("NFTA_HOOK_DEV") or place.get_attr("NFTA_HOOK_DEVS"):
        kind += " on devices"
    return model.Hook(
        kind,
        place.get_attr("NFTA_HOOK_HOOKNUM"),
        place.get_attr("NFTA_HOOK_PRIORITY"),
        chain.get_attr("NFTA_CHAIN_POLICY"),
    )


def _rule(rule: Any) -> model.RuleState:
    found = rule.get_attr("NFTA_RULE_EXPRESSIONS") or ()
    data = bytes.fromhex((rule.get_attr("NFTA_RULE_USERDATA") or "").replace(":", ""))
    # Type 0 is the comment: type, length and text with its NUL.
    is_comment = len(data) > 2 and data[0] == 0
    comment = data[2 : 1 + data[1]].decode(errors="backslashreplace") if is_comment else ""
    return model.RuleState(tuple(_expression(each) for each in found), comment)


def _expression(found: Any) -> model.Expr:
    name = str(found.get_attr("NFTA_EXPR_NAME"))
    known = _ATTRIBUTES.get(name)
    content = found.get_attr("NFTA_EXPR_DATA")
    if known is None or isinstance(content, str):
        return model.Expr(f"?{name}", (("?", str(content)),))
    values = dict(content["attrs"]) if content is not None else {}
    attributes: list[tuple[str, int | str | bytes]] = []
    for theirs, (ours, names) in known.items():
        if theirs in values:
            attributes += _values(ours, values.pop(theirs), names)
    attributes += (
        (f"?{theirs}", str(value)) for theirs, value in values.items() if theirs not in _UNCOUNTED
    )
    return model.Expr(
        name,
        tuple((key, value) for key, value in attributes if _DEFAULTS.get((name, key)) != value),
    )


def _values(
    name: str, value: Any, names: Mapping[str, int]
) -> list[tuple[str, int | str | bytes]]:
    """Give one attribute of ours; a verdict is two."""
    if isinstance(value, frozenset):
        return [(name, sum(names[each] for each in value))]
    if isinstance(value, int) or (isinstance(value, str) and not names):
        return [(name, value)]
    if isinstance(value, str):
        return [(name, names[value])]
    if value is None:
        return [(f"?{name}", "?")]
    verdict = value.get_attr("NFTA_DATA_VERDICT")
    if verdict is None:
        return [(name, bytes(value.get_attr("NFTA_DATA_VALUE")))]
    result: list[tuple[str, int | str | bytes]] = [
        ("verdict", _VERDICTS[verdict.get_attr("NFTA_VERDICT_CODE")])
    ]
    chain = verdict.get_attr("NFTA_VERDICT_CHAIN")
    return [*result, ("chain", chain)] if chain else result


def _set(sock: Any, table: str, found: Any) -> model.NamedSet:
    name = found.get_attr("NFTA_SET_NAME")
    kind, length = _KEY_TYPES.get(found.get_attr("NFTA_SET_KEY_TYPE"), ("?", 0))
    flags = found.get_attr("NFTA_SET_FLAGS") or _NO_FLAGS
    attributes = {key for key, _ in found["attrs"]}
    is_plain = attributes <= _PLAIN_SET and flags in (frozenset(("NFT_SET_INTERVAL",)), _NO_FLAGS)
    has_values = flags == _NO_FLAGS
    if not is_plain or length != found.get_attr("NFTA_SET_KEY_LEN"):
        return model.NamedSet(name, f"{kind} flags {sorted(map(str, flags))}", PackedRanges(1))
    request = nftsocket.nft_set_elem_list_msg()
    request["attrs"] = [
        ("NFTA_SET_ELEM_LIST_TABLE", table),
        ("NFTA_SET_ELEM_LIST_SET", name),
    ]
    points: list[tuple[int, bool]] = []
    for number, part in enumerate(_dump(sock, nftsocket.NFT_MSG_GETSETELEM, request), 1):
        if number % _PARTS_AT_ONCE == 0:
            garbage.collect()
        for element in part.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or ():
            key = element.get_attr("NFTA_SET_ELEM_KEY")
            # Without a key it matches everything.
            value = key.get_attr("NFTA_DATA_VALUE") if key is not None else bytes(length)
            flags = element.get_attr("NFTA_SET_ELEM_FLAGS") or frozenset()
            points.append((int.from_bytes(value, "big"), bool(flags & _INTERVAL_END)))
    if has_values:
        values = sorted(value for value, _ in points)
        return model.NamedSet(
            name, kind + model.VALUES, pack(length, zip(values, values, strict=True))
        )
    return model.NamedSet(name, kind, pack(length, _pair(points, 1 << (8 * length))))


def _pair(points: list[tuple[int, bool]], limit: int) -> Iterator[tuple[int, int]]:
    """Pair each start with the next end; the last may have none."""
    starts = sorted(value for value, is_end in points if not is_end)
    ends = sorted(value for value, is_end in points if is_end)
    position = 0
    for start in starts:
        while position < len(ends) and ends[position] <= start:
            position += 1
        yield start, (ends[position] if position < len(ends) else limit) - 1
