"""What this machine is, as a `HostFacts`; what comes and goes can be looked at again.

Every probe has a safe answer when it cannot know: port 22 for ssh, no address, no IPv6.
"""

import dataclasses
import glob
import ipaddress
import pwd
import socket
from pathlib import Path

from ..config import model
from ..errors import HostUnsupported

SSHD_CONFIG = "/etc/ssh/sshd_config"
DEFAULT_USER = "istio-proxy"
# Istio's fixed uid, used where the user does not exist (istio-iptables does the same).
DEFAULT_ID = 1337
SCOPE_LINK = 0x20  # /proc/net/if_inet6, IPV6_ADDR_LINKLOCAL
SCOPE_HOST = 0x10
TENTATIVE, OPTIMISTIC = 0x40, 0x04  # IFA_F_*, ibidem
LOCALHOST_V6 = f"{1:032x}"


def probe_facts(*, state_dir: str, runtime_dir: str) -> model.HostFacts:
    """Look at the machine; raises HostUnsupported where nothing can work."""
    uid, gid = probe_user(DEFAULT_USER)
    return model.HostFacts(
        proxy_uid=uid,
        proxy_gid=gid,
        ssh_ports=probe_ssh_ports(),
        addresses=probe_addresses(),
        has_ipv6=probe_ipv6(),
        hostname=socket.gethostname().split(".")[0] or "localhost",
        state_dir=Path(state_dir),
        runtime_dir=Path(runtime_dir),
    )


def probe_user(name: str) -> tuple[int, int]:
    """Return uid and gid of a user; Istio's 1337 for both where it does not exist.

    Raises HostUnsupported for a user that is root: its traffic could not be told from others'.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return DEFAULT_ID, DEFAULT_ID
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise HostUnsupported(f"user {name} has uid {entry.pw_uid} and gid {entry.pw_gid}")
    return entry.pw_uid, entry.pw_gid


def probe_ipv6() -> bool:
    """Whether ::1 is on `lo`: it is not where IPv6 is built out or switched off by sysctl."""
    return any(row[0] == LOCALHOST_V6 and row[5] == "lo" for row in _rows_v6())


def probe_ssh_ports() -> tuple[int, ...]:
    """The ports that sshd's configuration names (Port, ListenAddress host:port), and always 22.

    22 is what sshd takes for a ListenAddress without a port, what a socket unit listens on, and
    where people look first: leaving it alone costs nothing, capturing it may cost the host.
    """
    ports = {22}
    for path in [SSHD_CONFIG, *sorted(glob.glob(f"{SSHD_CONFIG}.d/*.conf"))]:
        try:
            with open(path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    ports |= _ports_of(line)
        except OSError:
            continue  # no sshd, or not readable
    return tuple(sorted(ports))


def _ports_of(line: str) -> set[int]:
    words = line.split("#")[0].replace("=", " ").split()
    if len(words) < 2:
        return set()
    keyword, value = words[0].lower(), words[1].strip('"')
    if keyword == "listenaddress" and (value.startswith("[") or value.count(":") == 1):
        value = value.rpartition(":")[2]
    elif keyword != "port":
        return set()
    is_port = value.isascii() and value.isdigit() and 0 < int(value) < 65536
    return {int(value)} if is_port else set()


def probe_addresses() -> tuple[model.Address, ...]:
    """Own addresses that are neither loopback nor link-local, IPv4 first, each in kernel order."""
    return (*_addresses_v4(), *_addresses_v6())


def _addresses_v4() -> list[model.Address]:
    # The LOCAL entries of /proc/net/fib_trie are the host's own addresses (fib_trie.c).
    found: list[model.Address] = []
    previous = ""
    try:
        with open("/proc/net/fib_trie", encoding="ascii") as lines:
            for line in lines:
                words = line.split()
                if words[:1] == ["|--"]:
                    previous = words[1]
                elif words[:1] == ["/32"] and words[-1] == "LOCAL" and previous:
                    address = ipaddress.IPv4Address(previous)
                    is_usable = not (address.is_loopback or address.is_link_local)
                    if is_usable and address not in found:
                        found.append(address)
    except OSError:
        return []
    return found


def _addresses_v6() -> list[model.Address]:
    # Until it is known to be nobody else's (RFC 4862) an address has no route to this host.
    return [
        ipaddress.IPv6Address(int(row[0], 16))
        for row in _rows_v6()
        if int(row[3], 16) not in (SCOPE_LINK, SCOPE_HOST)
        and row[5] != "lo"
        and int(row[4], 16) & (TENTATIVE | OPTIMISTIC) != TENTATIVE
    ]


def _rows_v6() -> list[list[str]]:
    """Address, index, prefix length, scope, flags and interface of every IPv6 address."""
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as lines:
            return [line.split() for line in lines]
    except OSError:
        return []


def look_again(known: model.HostFacts) -> model.HostFacts:
    """The same facts with the addresses that this host has now: they come and go (DHCP)."""
    return dataclasses.replace(known, addresses=probe_addresses())
