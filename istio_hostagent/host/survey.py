"""What is around the agent on this machine: looked at once, for a person, and changed by nobody.

Nothing here is asked by the agent itself. Not here: whether what is found is well
(`agent.examination`), and who has a port's socket (`sockdiag`).
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import HostAgentError
from . import (
    files,
    libraries,
    nftpresence,
    procstate,
    programs,
    sockdiag,
    socketowner,
)

_SYSTEMCTL = "/usr/bin/systemctl"
_SYSTEMD = "/run/systemd/system"
_SYSTEMCTL_S = 10.0
_PROPERTIES = ("Id", "LoadState", "ActiveState", "UnitFileState")
_HOSTS = "/etc/hosts"
_MOST_HOSTS = 1 << 20
# Programs of Istio's, by the name that the kernel has of a process (15 characters).
_PROGRAMS = frozenset(("pilot-agent", "node_agent"))
_OURS = re.compile(r"/(istio-hostagent|istio-proxy(-transparent)?@[^/]*)\.service(/|$)")
# Of Debian, with the package that has it; the agent and its workers run these.
_NEEDED = (
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/ip", "iproute2"),
)
# Libraries of workers, and Debian's packages of them; without the first two nothing is proven or
# obtained.
_LIBRARIES = (
    ("cryptography", "python3-cryptography"),
    ("pycurl", "python3-pycurl"),
    ("pyroute2", "python3-pyroute2"),
    ("watchdog", "python3-watchdog"),
    ("yaml", "python3-yaml"),
)


class Unit(NamedTuple):
    """A unit of systemd by one of its names, as `systemctl show` has it.

    `known`: the name that it has itself. `enabled`: empty where nothing says whether it starts at
    boot.
    """

    name: str
    known: str
    load: str
    active: str
    enabled: str = ""


class HostsLine(NamedTuple):
    """A line of /etc/hosts that has a name."""

    number: int
    address: str


class Holder(NamedTuple):
    """Who has a port and is not the proxy; a pid of 0: that is not seen."""

    port: int
    uid: int
    pid: int
    program: str


class Feature(NamedTuple):
    """Something that the agent needs of the machine.

    `words`: what was found; or what is not there, and then `advice`.
    """

    name: str
    is_there: bool
    words: str
    advice: str = ""


class Process(NamedTuple):
    """A process of Istio's that is not of this agent, and its control group."""

    pid: int
    program: str
    group: str


def find_units(names: Sequence[str]) -> tuple[Unit, ...] | None:
    """Ask systemd for units by these names; None: there is none, or it does not answer."""
    if not os.path.isdir(_SYSTEMD):
        return None
    show = (_SYSTEMCTL, "show", *(f"--property={each}" for each in _PROPERTIES), "--", *names)
    try:
        text = programs.run(show, timeout_s=_SYSTEMCTL_S, failed=_NoAnswer)
    except _NoAnswer:
        return None
    parts = text.strip().split("\n\n")
    if len(parts) != len(names):
        return None
    return tuple(map(_parse_unit, names, parts))


class _NoAnswer(HostAgentError):
    """systemctl failed."""


def _parse_unit(name: str, text: str) -> Unit:
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    known, load, active, enabled = (found.get(each, "") for each in _PROPERTIES)
    return Unit(name, known, load, active, enabled)


def find_hosts(names: Iterable[str]) -> tuple[tuple[str, tuple[HostsLine, ...]], ...]:
    """Give the lines of /etc/hosts that have these names, as the C library reads them."""
    wanted = {each.lower().rstrip("."): each for each in names}
    found: dict[str, list[HostsLine]] = {}
    try:
        text = files.read_bounded(_HOSTS, _MOST_HOSTS).decode(errors="replace")
    except OSError:
        return ()
    for number, line in enumerate(text.splitlines(), start=1):
        address, *others = line.partition("#")[0].split() or [""]
        for name in {wanted[each.lower()] for each in others if each.lower() in wanted}:
            found.setdefault(name, []).append(HostsLine(number, address))
    return tuple((name, tuple(lines)) for name, lines in found.items())


def find_holders(ports: Iterable[int], uid: int) -> tuple[Holder, ...]:
    """Give who listens on these ports and is not this user; raises HostUnsupported."""
    found: list[Holder] = []
    for port in sorted(set(ports)):
        for each in sockdiag.find_on_port(port):
            # What is held for the proxy is bound by root and given to its user.
            if each.uid != uid and (each.is_listening or each.uid != 0):
                pid, program = socketowner.find_process(each.inode) if each.inode else (0, "")
                found.append(Holder(port, each.uid, pid, program))
    return tuple(dict.fromkeys(found))


def find_strangers(own: Iterable[int]) -> tuple[Process, ...]:
    """Give the agents of Istio's in this network namespace that no unit of ours has.

    `own`: processes that are ours; so are those that they have started.
    """
    known = set(own)
    pending = list(known)
    while pending:
        below = [each for each in procstate.find_children(pending.pop()) if each not in known]
        known.update(below)
        pending += below
    return tuple(each for each in _find_agents() if each.pid not in known)


def _find_agents() -> Iterator[Process]:
    for pid in sorted(map(int, filter(str.isdigit, os.listdir("/proc")))):
        program = _read(f"/proc/{pid}/comm")
        if program not in _PROGRAMS:
            continue
        group = procstate.find_control_group(pid)
        if not _OURS.search(group) and _is_of_this_network(pid):
            yield Process(pid, program, group or "/")


def _is_of_this_network(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.read().strip()
    except OSError:
        return ""


def find_features(*, is_root: bool) -> tuple[Feature, ...]:
    """Look for what the agent and its workers need of the machine."""
    return (*_find_kernel(is_root=is_root), _find_programs(), _find_libraries())


def _find_kernel(*, is_root: bool) -> Iterator[Feature]:
    if not is_root:
        return
    sock, refusal = nftpresence.open_socket()
    if sock is not None:
        sock.close()
        yield Feature("kernel", True, "nf_tables answers")
        return
    advice = "modprobe nf_tables; ISTIO_HOSTAGENT_BACKEND=legacy does without"
    yield Feature("kernel", False, f"nf_tables does not answer: {refusal}", advice)


def _find_programs() -> Feature:
    missing = [(path, package) for path, package in _NEEDED if not os.access(path, os.X_OK)]
    if not missing:
        return Feature("programs", True, f"{', '.join(path for path, _ in _NEEDED)} are there")
    packages = " ".join(package for _, package in missing)
    words = f"{', '.join(path for path, _ in missing)} cannot be run"
    return Feature("programs", False, words, f"apt install {packages}")


def _find_libraries() -> Feature:
    libraries.add()
    missing = [package for name, package in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        words = f"Python finds no {', '.join(missing)}"
        return Feature("libraries", False, words, f"apt install {' '.join(missing)}")
    return Feature("libraries", True, f"{', '.join(name for name, _ in _LIBRARIES)} are found")
