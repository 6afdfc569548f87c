"""On which TCP ports an ssh daemon listens, told by who made the listening socket.

Not here: the sockets themselves (`sockdiag`). sshd's configuration is not read: included files,
SSHD_OPTS and socket units say as much as it does, and only what listens counts.
Only sockets of root count, or any user could name a program of his so that the port next to it is
not captured. In doubt a socket of root counts. Made for a process that may look into no other
one: what it needs anybody may read, which are control groups, names and titles of processes.
"""

import collections
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from . import sockdiag

# Of a unit: ssh.service, ssh.socket, sshd@2222.service, sshd-unix-local.socket, dropbear.service.
_UNITS = ("ssh", "sshd", "dropbear")
_KINDS = ("service", "socket")
# Of a process, and of those that listen for another one until somebody comes.
_NAMES = ("sshd", "dropbear", "systemd", "init")
# What sshd calls itself once it serves a connection, and may listen for its user (ssh -R) ...
_SERVING = b"sshd: "
# ... and what it does not: "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups".
_IS_LISTENER = b"[listener]"
# More control groups or processes than that are not looked through; then there is doubt.
_MOST = 4096


class Places(NamedTuple):
    """Where the kernel shows control groups and processes."""

    cgroups: str = "/sys/fs/cgroup"
    processes: str = "/proc"


PLACES = Places()


def find_ports(listeners: Iterable[sockdiag.Listener], places: Places = PLACES) -> set[int]:
    """Give the ports of those that are, or may be, an ssh daemon's."""
    reached = [each for each in listeners if each.uid == 0 and not _is_on_loopback(each)]
    if not reached:
        return set()
    groups = _find_groups({each.cgroup for each in reached}, places)
    of_sshd: set[int] = set()
    for number, group in groups.items():
        inodes = {each.inode for each in reached if each.cgroup == number}
        of_sshd |= _sockets_in(inodes, group, places)
    strangers = {each.inode for each in reached if each.cgroup not in groups}
    if strangers:
        of_sshd |= _sockets_outside(strangers, places)
    return {each.port for each in reached if each.inode in of_sshd}


def _is_on_loopback(listener: sockdiag.Listener) -> bool:
    """Whether nobody else gets there, so that there is nobody to lock out."""
    address = listener.address
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def _find_groups(wanted: set[int], places: Places) -> dict[int, str]:
    """Give the directories of the control groups with these numbers, as far as they are found."""
    root = _unified_root(places)
    if not root:
        return {}
    found = {}
    waiting = collections.deque([root])
    number = os.stat(root).st_ino
    if number in wanted:
        found[number] = root
    looked_at = 0
    while waiting and len(found) < len(wanted) and looked_at < _MOST:
        looked_at += 1
        for number, path, has_more in _groups_below(waiting.popleft()):
            if number in wanted:
                found[number] = path
            if has_more:
                waiting.append(path)
    return found


def _unified_root(places: Places) -> str:
    """Where control groups of version 2 are: everything, or a part beside version 1."""
    for path in (places.cgroups, os.path.join(places.cgroups, "unified")):
        if os.path.exists(os.path.join(path, "cgroup.controllers")):
            return path
    return ""


def _groups_below(path: str) -> Iterator[tuple[int, str, bool]]:
    """Give number, directory, and whether there are more below."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    # A directory has a link more for each one in it; other file systems say 1.
                    links = entry.stat(follow_symlinks=False).st_nlink
                    yield entry.inode(), entry.path, links != 2
    except OSError:
        return  # it has just ended


def _sockets_in(inodes: set[int], group: str, places: Places) -> set[int]:
    """Give those of these sockets, made in one group, that are or may be an ssh daemon's."""
    if any(_is_unit(part) for part in group.split("/")):
        return inodes
    found: set[int] = set()
    for pid in _members(group):
        if _may_listen(pid, places):
            sockets = _sockets_of(pid, places)
            found |= inodes if sockets is None else inodes & sockets
    return found


def _sockets_outside(inodes: set[int], places: Places) -> set[int]:
    """Give those of these sockets, of no known group, that are or may be an ssh daemon's.

    Nobody is seen to have one: then somebody out of sight has it.
    """
    of_sshd: set[int] = set()
    of_others: set[int] = set()
    pids = [int(name) for name in os.listdir(places.processes) if name.isdigit()]
    for pid in pids[:_MOST]:
        if theirs := inodes & (_sockets_of(pid, places) or set()):
            (of_sshd if _may_listen(pid, places) else of_others).update(theirs)
    return inodes - (of_others - of_sshd)


def _is_unit(part: str) -> bool:
    stem, _, kind = part.rpartition(".")
    name = stem.partition("@")[0]
    return kind in _KINDS and (name in _UNITS or name.startswith("sshd-"))


def _members(group: str) -> Sequence[int]:
    """Give the processes of a control group; 0 stands for one that is out of sight."""
    try:
        with open(os.path.join(group, "cgroup.procs"), encoding="ascii") as lines:
            pids = [int(line) for line in lines]
    except OSError:
        return [0]
    return pids if len(pids) <= _MOST else [0]


def _may_listen(pid: int, places: Places) -> bool:
    """Whether a process is an ssh daemon, or one that starts programs for others' connections."""
    try:
        with open(os.path.join(places.processes, str(pid), "comm"), "rb") as file:
            name = file.read().decode(errors="replace").strip()
        if name not in _NAMES:
            return False
        with open(os.path.join(places.processes, str(pid), "cmdline"), "rb") as file:
            title = file.read(4096)
    except OSError:
        return _is_hidden(pid)
    return not title.startswith(_SERVING) or _IS_LISTENER in title


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show: of another PID namespace, or hidepid=.

    Number 0 is our own group to kill(2), and there.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sockets_of(pid: int, places: Places) -> set[int] | None:
    """Give the inodes of the sockets that a process has; None if it may not be looked into."""
    directory = os.path.join(places.processes, str(pid), "fd")
    found: set[int] = set()
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return None if _is_hidden(pid) else found
    except OSError:
        return None
    for name in names:
        try:
            target = os.readlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue  # closed at this moment
        except OSError:
            return None
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found
