"""What this machine is, as a `HostFacts`; what comes and goes can be looked at again.

Not here: how the kernel is asked (`rtnetlink`), and when to look (`rtmonitor` hears of changes).
What the kernel did not answer is an error and never an empty answer; only sshd's port has a value
for "not known", 22.
"""

import ipaddress
import os
import socket
import stat
from collections.abc import Sequence

from ..config import model
from ..errors import HostUnsupported, KernelBusy
from ..supervise import instance
from . import (
    accounts,
    bridges,
    controlgroups,
    instances,
    nsswitch,
    resolvconf,
    rtnetlink,
    sharedmemory,
    sockdiag,
    sshd,
    users,
)

# Not there where the kernel was built, or booted, without IPv6.
IPV6_SETTINGS = "/proc/sys/net/ipv6"
HOSTS = "/etc/hosts"
# istio-hostagent-secrets.socket makes it, where there is systemd.
SECRETS = "secrets.sock"
_SSH_PORT = 22


def probe_facts(
    *, state_dir: str, runtime_dir: str, session_ports: tuple[int, ...] = ()
) -> model.HostFacts:
    """Look at the machine; raises HostUnsupported where nothing can work, KernelBusy."""
    uid, gid = users.probe_user()
    addresses = probe_addresses()
    return model.HostFacts(
        proxy_uid=uid,
        proxy_gid=gid,
        ssh_ports=probe_ssh_ports(),
        session_ports=session_ports,
        addresses=addresses,
        primary_address=primary_address(addresses, None, uid=uid),
        has_ipv6=rtnetlink.has_ipv6(),
        knows_ipv6=os.path.isdir(IPV6_SETTINGS),
        hostname=socket.gethostname().split(".")[0] or "localhost",
        users=accounts.read_users(),
        groups=accounts.read_groups(),
        name_servers=resolvconf.read_name_servers(),
        asks_resolved=nsswitch.asks_resolved(),
        own_group=controlgroups.find_own(),
        secret_socket=probe_secret_socket(runtime_dir),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        instance=instances.own(),
        has_shared_memory=sharedmemory.is_usable(),
        filtered_bridges=bridges.probe_filtered(),
    )


def probe_secret_socket(runtime_dir: str) -> str:
    """Give the socket of the secret server's unit, which is there before we start; else empty."""
    path = os.path.join(runtime_dir, SECRETS)
    try:
        return path if stat.S_ISSOCK(os.lstat(path).st_mode) else ""
    except OSError:
        return ""


def probe_ssh_ports() -> tuple[int, ...]:
    """Give the ports on which an ssh daemon listens now, or may, and always 22.

    22 is where people look first, and where sshd may be back in a moment: leaving it alone costs
    nothing, capturing it may cost the host.
    """
    try:
        listeners = sockdiag.probe_listeners()
    except HostUnsupported:
        listeners = []
    # Most hosts have no other listener of root, and then no group is looked for.
    others = sshd.find_ports(each for each in listeners if each.port != _SSH_PORT)
    return tuple(sorted({_SSH_PORT, *others}))


def probe_addresses() -> tuple[model.Address, ...]:
    """Give own addresses at which packets arrive from elsewhere: IPv4 first, each by interface.

    Neither loopback nor link-local, nor one that may still turn out to be somebody else's, nor
    any of an interface that is down. Raises KernelBusy, NotPermitted.
    """
    up = {link.interface for link in rtnetlink.probe_links() if link.is_up}
    found = (
        each.address
        for each in rtnetlink.probe_addresses()
        if each.interface in up and not each.is_tentative and _is_reached(each.address)
    )
    return tuple(dict.fromkeys(found))


def _is_reached(address: model.Address) -> bool:
    if address.is_loopback or address.is_link_local:
        return False
    # ::/8 is nobody's (RFC 4291): what we put on `lo` ourselves comes from there.
    return address.version == 4 or address.packed[0] != 0


def primary_address(
    addresses: Sequence[model.Address], towards: model.Address | None, *, uid: int | None = None
) -> model.Address | None:
    """Give the one of own `addresses` by which the mesh is to know this host.

    `towards`: an address of the control plane, None where it is not known. `uid`: whose packets
    go there. Raises KernelBusy, NotPermitted.
    """
    known = () if towards is None else (rtnetlink.source_of(towards, uid=uid),)
    return instance.prefer(addresses, (*known, rtnetlink.default_source(uid=uid)))


def look_again(known: model.HostFacts, towards: model.Address | None = None) -> model.HostFacts:
    """Give the same facts with what comes and goes as it is now: addresses, routes, IPv6.

    `towards`: as for `primary_address`. Where the kernel gives no answer, what is known stays.
    """
    try:
        addresses = probe_addresses()
        primary = primary_address(addresses, towards, uid=known.proxy_uid)
        has_ipv6 = rtnetlink.has_ipv6()
        filtered_bridges = bridges.probe_filtered()
    except KernelBusy:
        return known
    return known._replace(
        addresses=addresses,
        primary_address=primary,
        has_ipv6=has_ipv6,
        knows_ipv6=os.path.isdir(IPV6_SETTINGS),
        has_shared_memory=sharedmemory.is_usable(),
        filtered_bridges=filtered_bridges,
    )


def read_files_again(known: model.HostFacts) -> model.HostFacts:
    """Give the same facts with what files of this host say now.

    Users, groups, whom it asks for names, whether bridges call the packet filter (sysctl). A file
    that says nothing, because it cannot be read or is being written, leaves what is known: no
    query may go around the proxy for it, and no name of a user lose its number.
    """
    try:
        filtered_bridges = bridges.probe_filtered()
    except KernelBusy:
        filtered_bridges = known.filtered_bridges
    return known._replace(
        users=accounts.read_users() or known.users,
        groups=accounts.read_groups() or known.groups,
        name_servers=resolvconf.read_name_servers() or known.name_servers,
        asks_resolved=nsswitch.asks_resolved(),
        filtered_bridges=filtered_bridges,
    )


def find_address(host: str) -> model.Address | None:
    """Give the address that a name or an address stands for, if this host knows it by itself.

    Only /etc/hosts is looked at (hosts(5)), where `istioctl` puts the control plane of a virtual
    machine: asking a name server would block, and load the resolver for ever.
    """
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        with open(HOSTS, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                address, *names = line.split("#")[0].split() or [""]
                if host in names:
                    return ipaddress.ip_address(address)
    except (OSError, ValueError):
        return None
    return None
