"""What Istio's scripts have left of TPROXY in the routing policy: found and taken out.

Rules that send packets of their mark to their table, and the route there by which everything is
local; each exactly as they write it. None of their own cleanups takes these out. Ours may be the
same but for their number (`routing`).
Source: include/uapi/linux/fib_rules.h and rtnetlink.h.
"""

import errno
import socket
import struct

from ..errors import ApplyRejected, NotPermitted
from ..redirect import model, takeover
from . import netlink, rtnetlink
from .nfnetlink import framing

_RULE = struct.Struct("=8BI")  # struct fib_rule_hdr: family, lengths, tos, table, ..., flags
_DELRULE, _GETRULE = 33, 34
_TO_TABLE = 1  # FR_ACT_TO_TBL
_PRIORITY, _FWMARK, _SUPPRESS, _TABLE, _FWMASK, _PAD, _PROTOCOL = 6, 10, 14, 15, 16, 18, 21
# What every rule says of itself, and what one that looks at a mark alone has.
_OF_MARK = frozenset((_PRIORITY, _FWMARK, _SUPPRESS, _TABLE, _FWMASK, _PAD, _PROTOCOL))
_LOCAL = 2  # RTN_LOCAL
_OUTGOING, _RTA_METRICS, _RTA_PREF = 4, 8, 20
_OF_LOCAL = frozenset(
    (
        *(_OUTGOING, _RTA_METRICS, _RTA_PREF),
        *(rtnetlink.RTA_PRIORITY, rtnetlink.RTA_TABLE, rtnetlink.RTA_CACHEINFO),
    )
)
_U32 = struct.Struct("=I")


def find() -> tuple[takeover.Remains, ...]:
    """What TPROXY has left: rules for its mark, and the route of its table.

    Raises KernelBusy, NotPermitted.
    """
    count = sum(len(_find_of(family)) for family in (socket.AF_INET, socket.AF_INET6))
    return (takeover.Remains(count, "istio-iptables", takeover.ROUTING),) if count else ()


def take_out() -> None:
    """Take out what `find` finds; raises ApplyRejected, KernelBusy, NotPermitted."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, body in _find_of(family):
            _delete(kind, body)


def _find_of(family: int) -> list[tuple[int, bytes]]:
    """What there is of one family, as what deletes it: rules first."""
    head = _RULE.pack(family, *(0,) * 7, 0)
    rules = _dump(_GETRULE, head, "reading the routing policy")
    own = [body for body in rules if _is_of_mark(body)]
    found = [(_DELRULE, body) for body in own]
    others = (body for body in rules if body not in own and not _is_ours(body))
    if any(_table_of(body) == takeover.TPROXY_TABLE for body in others):
        return found  # somebody else looks into that table
    # Of this table alone (NETLINK_GET_STRICT_CHK): there may be a million other routes.
    head = rtnetlink.RTMSG.pack(family, 0, 0, 0, takeover.TPROXY_TABLE, 0, 0, 0, 0)
    routes = _dump(rtnetlink.GETROUTE, head, "reading routes")
    return found + [(rtnetlink.DELROUTE, body) for body in routes if _is_of_tproxy(body)]


def _dump(kind: int, head: bytes, doing: str) -> list[bytes]:
    try:
        return netlink.dump(netlink.NETLINK_ROUTE, kind, head)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT):
            return []  # no such family, no rules in this kernel, no such table
        raise netlink.explain(error, doing) from error


def _table_of(body: bytes) -> int:
    found = framing.read(body[_RULE.size :])
    return int(_U32.unpack(found[_TABLE])[0]) if _TABLE in found else body[4]


def _is_ours(body: bytes) -> bool:
    return framing.read(body[_RULE.size :]).get(_PROTOCOL) == bytes((model.ROUTING_PROTOCOL,))


def _is_of_mark(body: bytes) -> bool:
    _, to, source, tos, _, _, _, action, flags = _RULE.unpack_from(body)
    found = framing.read(body[_RULE.size :])
    is_plain = (to, source, tos, flags, action) == (0, 0, 0, 0, _TO_TABLE)
    if not is_plain or not found.keys() <= _OF_MARK or _FWMARK not in found or _is_ours(body):
        return False
    (mark,) = _U32.unpack(found[_FWMARK])
    (mask,) = _U32.unpack(found.get(_FWMASK, b"\xff" * 4))
    expected = takeover.TPROXY_MARK, 0xFFFFFFFF, takeover.TPROXY_TABLE
    return (mark, mask, _table_of(body)) == expected


def _is_of_tproxy(body: bytes) -> bool:
    _, to, source, tos, table, protocol, _, kind, _ = rtnetlink.RTMSG.unpack_from(body)
    if protocol == model.ROUTING_PROTOCOL or (to, source, tos, table, kind) != (
        0,
        0,
        0,
        takeover.TPROXY_TABLE,
        _LOCAL,
    ):
        return False
    found = framing.read(body[rtnetlink.RTMSG.size :])
    is_of_lo = found.get(_OUTGOING) == _U32.pack(rtnetlink.LOOPBACK)
    return is_of_lo and found.keys() <= _OF_LOCAL


def _delete(kind: int, body: bytes) -> None:
    try:
        netlink.ask(netlink.NETLINK_ROUTE, kind, body, flags=framing.NLM_F_ACK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return  # somebody else was faster
        if error.errno == errno.EPERM:
            raise NotPermitted(
                "changing routes needs CAP_NET_ADMIN", hint="run it as root"
            ) from error
        what = "rule for a mark" if kind == _DELRULE else "local route"
        step = f"remove a {what} of TPROXY"
        raise ApplyRejected(
            f"the kernel refused to {step}: {error.strerror}", step=step, errno=error.errno or 0
        ) from error
