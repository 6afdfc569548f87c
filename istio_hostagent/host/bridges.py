"""Bridges that call the packet filter for what comes in by them (br_netfilter).

What meets the filter below the bridge does not meet it again above, and on its way up it loses
the socket that a rule has given it: so TPROXY cannot have it. docker, Kubernetes and libvirt load
br_netfilter, and it calls unless it is told otherwise.
Sources: net/bridge/br_netfilter_hooks.c (br_nf_pre_routing(), ip_sabotage_in()), ip_rcv_core().
"""

from ..errors import SHORTAGES, KernelBusy, describe
from . import rtnetlink
from .nfnetlink import framing

# Of this network namespace; not there where br_netfilter is not loaded.
SETTINGS = "/proc/sys/net/bridge"
_SWITCHES = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
_IFLA_LINKINFO = 18
_INFO_KIND, _INFO_DATA = 1, 2  # IFLA_INFO_*
_OWN_SWITCHES = (36, 37)  # IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES


def probe_filtered() -> tuple[str, ...]:
    """Give the names of bridges that call it, for IPv4 or IPv6.

    Raises KernelBusy, NotPermitted, HostUnsupported.
    """
    switches = [_read(f"{SETTINGS}/{name}") for name in _SWITCHES]
    if not any(switches):
        return ()  # br_netfilter is not loaded
    is_called_by_all = "1" in switches
    found = []
    for link in rtnetlink.dump_links():
        told = framing.read(link[rtnetlink.IFINFOMSG.size :])
        kind = framing.read(told.get(_IFLA_LINKINFO, b""))
        if framing.text(kind.get(_INFO_KIND, b"")) != "bridge":
            continue
        own = framing.read(kind.get(_INFO_DATA, b""))
        if is_called_by_all or any(any(own.get(each, b"")) for each in _OWN_SWITCHES):
            found.append(framing.text(told.get(rtnetlink.IFLA_IFNAME, b"")))
    return tuple(sorted(found))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno in SHORTAGES:
            raise KernelBusy(f"{path}: {describe(error)}") from error
        return ""
