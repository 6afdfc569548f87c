"""TCP ports that nobody else can bind: sockets of one user are bound there and do not listen.

Of a bound port with SO_REUSEPORT only sockets of the same user get a share, and only if they ask
for SO_REUSEPORT too, as Envoy does; every address of the port is taken, in both IP versions. A
socket belongs to who made it or to whom it was given since by fchown(2), for which CAP_CHOWN is
enough (sockfs_setattr(); bind(2) compares that owner, inet_csk_bind_conflict()).

Not here: which ports, and when. The descriptor store gets the sockets by the names given here.
"""

import errno
import os
import socket
from collections.abc import Iterator, Mapping

from ..errors import HostAgentError, KernelBusy, NotPermitted, PortTaken
from . import sockdiag
from .processes import User

_PREFIX = "port-"
_ADDRESSES = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - never listens
_VERSIONS = {socket.AF_INET: "v4", socket.AF_INET6: "v6"}

Key = tuple[int, socket.AddressFamily]


class HeldPorts:
    """The ports that this process holds for one user."""

    def __init__(self, stored: Mapping[str, socket.socket], user: User) -> None:
        """Take over what an earlier process has held; what is of no use is closed.

        `stored`: sockets by name, as the descriptor store had them.
        """
        self._user = user
        self._held: dict[Key, socket.socket] = {}
        self._useless: list[str] = []
        for name, found in stored.items():
            key = _key_of(found, user) if name.startswith(_PREFIX) else None
            if key is None or _name(*key) != name:
                found.close()
                self._useless.append(name)
            else:
                self._held[key] = found

    @property
    def useless(self) -> tuple[str, ...]:
        """Names under which the store still has what is of no use."""
        return tuple(self._useless)

    @property
    def ports(self) -> frozenset[int]:
        """The ports that are held, in each IP version that this host knows."""
        ports = {port for port, _ in self._held}
        families = list(_families())
        return frozenset(p for p in ports if all((p, family) in self._held for family in families))

    def hold(self, port: int) -> dict[str, int]:
        """Hold a port, in all IP versions or none; gives name and descriptor of each socket.

        Raises PortTaken, NotPermitted, KernelBusy.
        """
        made: dict[Key, socket.socket] = {}
        try:
            for family in _families():
                key = port, family
                if key not in self._held:
                    made[key] = _hold(port, family, self._user)
        except (HostAgentError, OSError) as error:
            for each in made.values():
                each.close()
            if isinstance(error, HostAgentError):
                raise
            kind = NotPermitted if error.errno in (errno.EPERM, errno.EACCES) else KernelBusy
            raise kind(f"port {port} cannot be held: {error.strerror}") from error
        self._held |= made
        return {_name(*key): held.fileno() for key, held in self._held.items() if key[0] == port}

    def let_go(self, port: int) -> tuple[str, ...]:
        """Hold a port no longer; gives the names of its sockets."""
        keys = [key for key in self._held if key[0] == port]
        for key in keys:
            self._held.pop(key).close()
        return tuple(_name(*key) for key in keys)

    def find_listening(self, port: int) -> bool | None:
        """Whether the user, and nobody else, listens on a port; None: the kernel does not tell."""
        try:
            owners = {each.uid for each in sockdiag.find_on_port(port) if each.is_listening}
        except HostAgentError:
            return None
        return owners == {self._user.uid}

    def is_in_use(self, port: int) -> bool:
        """Whether connections are under way there; what cannot be asked counts as no."""
        try:
            return any(each.inode for each in sockdiag.find_connections(port))
        except HostAgentError:
            return False

    def close(self) -> None:
        """Hold nothing any more, but for what the descriptor store has."""
        for each in self._held.values():
            each.close()
        self._held.clear()


def _families() -> Iterator[socket.AddressFamily]:
    yield socket.AF_INET
    if _has_ipv6():
        yield socket.AF_INET6


def _has_ipv6() -> bool:
    """Whether a program may bind there, also while IPv6 is switched off."""
    return os.path.exists("/proc/self/net/if_inet6")


def _name(port: int, family: socket.AddressFamily) -> str:
    return f"{_PREFIX}{port}-{_VERSIONS[family]}"


def _key_of(found: socket.socket, user: User) -> Key | None:
    """What a socket holds; None if that is no port, or not for this user."""
    try:
        if found.family not in _ADDRESSES or found.type != socket.SOCK_STREAM:
            return None
        address, port = found.getsockname()[:2]
        is_shared = found.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        is_first = found.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        is_listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        owner = os.fstat(found.fileno()).st_uid
    except OSError:
        return None
    is_whole = address == _ADDRESSES[found.family] and port and is_shared
    if not is_whole or is_first or is_listening or owner != user.uid:
        return None
    return port, found.family


def _hold(port: int, family: socket.AddressFamily, user: User) -> socket.socket:
    """Make one socket that holds a port; raises PortTaken, KernelBusy, OSError."""
    try:
        return _bind(port, family, user, is_lenient=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    # It may be connections of an earlier proxy that are being closed: a socket without a process
    # counts as root's there, and is in the way for minutes. With SO_REUSEADDR it is not.
    if (taken := _find_stranger(port, user)) is not None:
        raise taken
    try:
        made = _bind(port, family, user, is_lenient=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _find_owner(port, user) from error
    # Somebody may have come in between, where all ask for SO_REUSEADDR and nobody listens yet.
    try:
        taken = _find_stranger(port, user)
    except KernelBusy:
        made.close()
        raise
    if taken is not None:
        made.close()
        raise taken
    return made


def _bind(
    port: int, family: socket.AddressFamily, user: User, *, is_lenient: bool
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(is_lenient))
        os.fchown(made.fileno(), user.uid, user.gid)
        made.bind((_ADDRESSES[family], port))
        # With it anybody could listen here: two that have it are no conflict until one listens.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        made.close()
        raise
    return made


def _find_stranger(port: int, user: User) -> PortTaken | None:
    """Who else listens on a port, or is bound there; raises KernelBusy if there is no telling."""
    found = [each for each in _find_on_port(port) if each.uid != user.uid]
    if not found:
        return None
    first = min(found, key=lambda each: not each.is_listening)
    return PortTaken(
        f"port {port} is taken by a program of user {first.uid}, which has {first.address}",
        port=port,
        address=str(first.address),
        uid=first.uid,
        inode=first.inode,
    )


def _find_on_port(port: int) -> list[sockdiag.Listener]:
    try:
        return sockdiag.find_on_port(port)
    except HostAgentError as error:
        raise KernelBusy(f"port {port} cannot be held: {error.message}") from error


def _find_own(port: int, user: User) -> PortTaken | None:
    """A listener of the proxy's user that does not share the port, or we would have it, too."""
    for each in _find_on_port(port):
        if each.uid == user.uid and each.is_listening:
            return PortTaken(
                f"port {port} is taken by another program of the proxy's user {each.uid}, which"
                f" listens at {each.address} and shares it with nobody (SO_REUSEPORT)",
                port=port,
                address=str(each.address),
                uid=each.uid,
                inode=each.inode,
            )
    return None


def _find_client(port: int, user: User, *, is_of_user: bool) -> PortTaken | None:
    """A connection that got this port as its own, which clients can where the range is wide."""
    for each in sockdiag.find_connections(port):
        if each.inode and (each.uid == user.uid) is is_of_user:
            return PortTaken(
                f"port {port} is the client's port of a connection of user {each.uid}",
                port=port,
                address=str(each.address),
                uid=each.uid,
                inode=each.inode,
                is_client=True,
            )
    return None


def _find_owner(port: int, user: User) -> PortTaken:
    """Whoever keeps us from a port; raises KernelBusy if there is no telling.

    What a listener of the user has accepted is no client, and has the port as well.
    """
    text = f"port {port} is taken by a program that is bound there and does not listen"
    return (
        _find_stranger(port, user)
        or _find_client(port, user, is_of_user=False)
        or _find_own(port, user)
        or _find_client(port, user, is_of_user=True)
        or PortTaken(text, port=port)
    )
