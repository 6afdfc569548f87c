"""Our rules for choosing a routing table, and the route of that table.

Not here: which there must be (`redirect.policy`). What is ours carries our number
(`model.ROUTING_PROTOCOL`): rules of others with the same mark are never touched. Source:
include/uapi/linux/fib_rules.h and rtnetlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from ..errors import ApplyRejected, NotPermitted
from ..redirect import model
from . import netlink, rtnetlink
from .nfnetlink import framing

_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = 6, 10, 15, 16, 21
_TO_TABLE = 1  # FR_ACT_TO_TBL
_RULE = struct.Struct("=8BI")  # family, lengths, tos, table, two reserved, action, flags
_U32 = struct.Struct("=I")
_RTA_OIF = 4
# What tells our route from one of Istio's scripts for the same table, which otherwise the kernel
# takes for it: theirs have 0, and 1024 in IPv6.
_METRIC = 137
_RTN_LOCAL, _SCOPE_HOST = 2, 254
_NLM_F_EXCL = 0x200
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# How the kernel says that there is no such family, or no such table.
_NONE = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT)
_GONE = (errno.ENOENT, errno.ESRCH)


def observe() -> tuple[model.Routing, ...]:
    """Give every rule of ours, and the routes of the tables that they name.

    Raises KernelBusy, NotPermitted, HostUnsupported.
    """
    found: list[model.Routing] = []
    for version in _FAMILIES:
        rules = list(_read_rules(version))
        found += rules
        tables = sorted({rule.table for rule in rules})
        found += (route for table in tables for route in _read_routes(version, table))
    return tuple(found)


def _read_rules(version: int) -> Iterator[model.Routing]:
    body = _RULE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    for answer in _dump(_GETRULE, body, "reading routing rules"):
        found = framing.read(answer[_RULE.size :])
        if found.get(_FRA_PROTOCOL) != bytes((model.ROUTING_PROTOCOL,)):
            continue
        mark, table = _number(found, _FRA_FWMARK), _number(found, _FRA_TABLE)
        priority = _number(found, _FRA_PRIORITY)
        mask = _number(found, _FRA_FWMASK, model.EVERY_BIT)
        yield model.Routing("rule", version, mark, table, priority, mask)


def _read_routes(version: int, table: int) -> Iterator[model.Routing]:
    head = rtnetlink.RTMSG.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    body = head + framing.pack(rtnetlink.RTA_TABLE, _U32.pack(table))
    for answer in _dump(rtnetlink.GETROUTE, body, "reading routes"):
        _, length, _, _, _, protocol, _, kind, _ = rtnetlink.RTMSG.unpack_from(answer)
        found = framing.read(answer[rtnetlink.RTMSG.size :])
        is_in = _number(found, rtnetlink.RTA_TABLE) == table
        if is_in and protocol == model.ROUTING_PROTOCOL:
            is_whole = kind == _RTN_LOCAL and length == 0
            is_whole &= _number(found, _RTA_OIF) == rtnetlink.LOOPBACK
            yield model.Routing("route" if is_whole else "changed route", version, 0, table)


def _dump(kind: int, body: bytes, doing: str) -> list[bytes]:
    try:
        return netlink.dump(netlink.NETLINK_ROUTE, kind, body)
    except OSError as error:
        if error.errno in _NONE:
            return []
        raise netlink.explain(error, doing) from error


def _number(found: dict[int, bytes], attribute: int, default: int = 0) -> int:
    data = found.get(attribute)
    return int(_U32.unpack(data)[0]) if data is not None else default


def add(wanted: model.Routing) -> None:
    """Make a rule or a route; already there is fine. Raises ApplyRejected, NotPermitted."""
    flags = framing.NLM_F_CREATE | _NLM_F_EXCL
    _change(wanted, flags, fine=(errno.EEXIST,), is_new=True)


def delete(unwanted: model.Routing) -> None:
    """Remove a rule or a route of ours; not there is fine. Raises ApplyRejected, NotPermitted."""
    _change(unwanted, 0, fine=_GONE, is_new=False)


def _change(routing: model.Routing, flags: int, *, fine: tuple[int, ...], is_new: bool) -> None:
    if routing.kind == "rule":
        kind, body = (_NEWRULE if is_new else _DELRULE), _rule_body(routing)
    else:
        kind = rtnetlink.NEWROUTE if is_new else rtnetlink.DELROUTE
        body = _route_body(routing)
    try:
        netlink.ask(netlink.NETLINK_ROUTE, kind, body, flags=flags | framing.NLM_F_ACK)
    except OSError as error:
        if error.errno in fine:
            return
        if error.errno == errno.EPERM:
            raise NotPermitted(
                "changing routes needs CAP_NET_ADMIN", hint="run it as root"
            ) from error
        code = error.errno or errno.EIO
        step = f"{'add' if is_new else 'delete'}: {routing}"
        raise ApplyRejected(
            f"the kernel refused to {step}: {os.strerror(code)}", step=step, errno=code
        ) from error


def _rule_body(routing: model.Routing) -> bytes:
    body = _RULE.pack(_FAMILIES[routing.version], 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    body += framing.pack(_FRA_PROTOCOL, bytes((model.ROUTING_PROTOCOL,)))
    body += framing.pack(_FRA_TABLE, _U32.pack(routing.table))
    body += framing.pack(_FRA_PRIORITY, _U32.pack(routing.priority))
    body += framing.pack(_FRA_FWMARK, _U32.pack(routing.mark))
    return body + framing.pack(_FRA_FWMASK, _U32.pack(routing.mask))


def _route_body(routing: model.Routing) -> bytes:
    version = routing.version
    kind = _RTN_LOCAL if routing.kind == "route" else 0
    scope = _SCOPE_HOST if version == 4 else 0
    # family, lengths, tos, table, protocol, scope, type, flags
    lengths = (_FAMILIES[version], 0, 0, 0, 0)
    body = rtnetlink.RTMSG.pack(*lengths, model.ROUTING_PROTOCOL, scope, kind, 0)
    body += framing.pack(rtnetlink.RTA_TABLE, _U32.pack(routing.table))
    if routing.kind == "route":
        body += framing.pack(_RTA_OIF, _U32.pack(rtnetlink.LOOPBACK))
        body += framing.pack(rtnetlink.RTA_PRIORITY, _U32.pack(_METRIC))
    return body
