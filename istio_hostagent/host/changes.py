"""What other people commit to nf_tables: who it was, and which kind of thing it touched.

The kernel announces each object of a transaction with the name of its table, and then the
transaction with its process. Read is only what tells the kind: the header and the first attribute.
Our own transactions are known by the port of the socket that made them, and those of probes by
the name of their table: a process id would be that of the initial PID namespace, which may not be
ours. Not here: what follows from a change.
"""

import enum
import errno
import os
import socket
from typing import NamedTuple

from ..errors import HostAgentError
from ..redirect import model
from .nfnetlink import connection, framing, messages

_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES, as the upper byte of a message's type
_NEWGEN = _SUBSYSTEM | messages.NEWGEN
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3  # NFTA_GEN_ID, NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
# Which packets a rule meets does not depend on these alone; every other kind counts as structure,
# so that one which a later kernel has is never overlooked.
_CONTENT = frozenset(
    _SUBSYSTEM | kind
    for kind in (
        *(messages.NEWSET, messages.DELSET, messages.DESTROYSET),
        *(messages.NEWSETELEM, messages.DELSETELEM, messages.DESTROYSETELEM),
        *(messages.NEWOBJ, messages.DELOBJ, messages.DESTROYOBJ),
    )
)
# After the header comes struct nfgenmsg, whose first byte is the family; then the attributes, and
# of every object the first one names its table.
_FAMILY = framing.HEADER.size
_TABLE = _FAMILY + 4
_OURS = tuple(framing.pack_text(1, name) for name in model.OUR_TABLES)
_PROBE = model.PROBE_TABLE_PREFIX.encode()
# The kernel keeps it back from us only as long as it is full. Ten thousand networks that somebody
# puts into a set take 2.6 MiB of it, and so do our own.
_EVENT_BUFFER = 4 << 20
# One call reads no more than so many datagrams, of about sixty objects each: 1 ms of work. The
# rest stays readable.
_MAX_DATAGRAMS = 64
_RECEIVE_SIZE = 1 << 16
# So many of these must do for all that was committed before; the last may be on its way still.
_MAX_READS = 200
# What the kernel calls the first PID namespace (PROC_PID_INIT_INO).
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC


class _Subject(enum.Enum):
    """Whose object it is, or of which kind."""

    OURS = 1
    PROBE = 2  # a table that only looks at packets of ours
    STRUCTURE = 3
    CONTENT = 4


class Change(NamedTuple):
    """One transaction of somebody else.

    `is_structure`: others' tables, chains or rules are touched, which may come before ours now;
    if neither holds, only others' sets and objects are. The pid is one of the initial PID
    namespace; 0: nobody knows whose it was.
    """

    pid: int
    process_name: str
    is_ours: bool
    is_structure: bool

    @property
    def culprit(self) -> str:
        """The process, in words that are true inside a container as well."""
        if not self.pid:
            return "unknown"
        where = "" if _is_pid_namespace_initial() else " in the initial PID namespace"
        return f"{self.process_name}[{self.pid}{where}]"


# Some transactions were missed: they may have touched anything.
LOST = Change(0, "", True, True)


class ChangeMonitor:
    """Tells what others commit to nf_tables in this network namespace."""

    def __init__(self, own_port: int | None = None, *, buffer_size: int = _EVENT_BUFFER) -> None:
        """Start listening; `own_port` names the socket whose transactions are ours.

        Raises NotPermitted.
        """
        self._own_port = own_port
        # Ours, as the kernel numbers it: in a container only our own transactions tell.
        self._own_pid = os.getpid() if _is_pid_namespace_initial() else 0
        self._socket = connection.open_socket((_NFTABLES_GROUP,))
        connection.force_receive_buffer(self._socket, buffer_size)
        self._subjects: set[_Subject] = set()  # of the transaction that is being announced
        self.generation = 0  # after the last transaction that was announced; 0: none was

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def read(self) -> tuple[Change, ...]:
        """Take some of what has come, oldest first, equal ones once; never blocks.

        If anything was lost, `LOST` is among it, and all that the kernel still had is taken.
        """
        changes: dict[Change, None] = {}
        for _ in range(_MAX_DATAGRAMS):
            try:
                data = self._socket.recv(_RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._drain()
                changes[LOST] = None
                break
            change = self._take(data)
            if change is not None:
                changes[change] = None
        return tuple(changes)

    def forget(self) -> None:
        """Throw away all that has come, as if nothing had been announced yet."""
        self._drain()
        self.generation = 0

    def _drain(self) -> None:
        """Throw away what is left, also if more is lost meanwhile.

        From the first loss on the kernel delivers nothing until all is read, and says so once: a
        look at the rules before that might miss what comes between, and half a transaction of
        somebody would be taken for the beginning of the next one, whosever that is.
        """
        self._subjects = set()
        while True:
            try:
                self._socket.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _take(self, data: bytes) -> Change | None:
        """Note what one datagram names; if it ends a transaction that matters, return that."""
        if len(data) < framing.HEADER.size:
            return None
        _, kind, _, _, port = framing.HEADER.unpack_from(data)
        is_own = port == self._own_port  # a datagram is of one transaction
        if kind != _NEWGEN:
            if not is_own:
                self._note(data)
            return None
        found = framing.read(data[_TABLE:])
        self.generation = framing.be32(found.get(_GEN_ID, b""))
        pid = framing.be32(found.get(_GEN_PID, b""))
        if is_own:
            self._own_pid = pid
            return None
        subjects = self._subjects or {_Subject.STRUCTURE}  # nothing was named: be careful
        self._subjects = set()
        if subjects == {_Subject.PROBE}:
            return None
        name = framing.text(found.get(_GEN_NAME, b""))
        if pid == self._own_pid:
            pid, name = 0, ""  # our other sockets do no such thing: it is of somebody unknown
        return Change(
            pid,
            name,
            is_ours=_Subject.OURS in subjects,
            is_structure=_Subject.STRUCTURE in subjects,
        )

    def _note(self, data: bytes) -> None:
        """Remember what the objects in one datagram are."""
        offset = 0
        while offset + _TABLE <= len(data):
            length, kind, _, _, _ = framing.HEADER.unpack_from(data, offset)
            if length < _TABLE:
                return
            table = offset + _TABLE
            is_inet = data[offset + _FAMILY] == connection.INET
            if is_inet and data.startswith(_OURS, table):
                self._subjects.add(_Subject.OURS)
            elif is_inet and data.startswith(_PROBE, table + 4):
                self._subjects.add(_Subject.PROBE)
            elif kind in _CONTENT:
                self._subjects.add(_Subject.CONTENT)
            else:
                self._subjects.add(_Subject.STRUCTURE)
            offset += (length + 3) & ~3


class Witness:
    """Tells whether anybody else touches our tables from its making on.

    Whoever reads or changes our tables while others commit all the time needs not begin anew for
    each of them. To be closed, as it hears everything.
    """

    def __init__(self, link: connection.Connection) -> None:
        """Start listening to all but `link`; raises NotPermitted, KernelBusy."""
        self._monitor = ChangeMonitor(link.port)
        try:
            self._began = link.generation()
        except HostAgentError:
            self._monitor.close()
            raise
        self._is_touched = False

    def is_untouched_until(self, generation: int) -> bool:
        """Whether all is heard up to this generation, and nothing of it is about our tables."""
        for _ in range(_MAX_READS):
            self._is_touched |= any(change.is_ours for change in self._monitor.read())
            if self._is_touched:
                return False
            if (self._monitor.generation or self._began) == generation:
                return True
        return False

    def begin_anew(self) -> None:
        """Forget what has been touched so far: our tables are read again from here on."""
        while self._monitor.read():
            pass
        self._is_touched = False

    def begin_at(self, generation: int) -> None:
        """Our own transaction has made this generation, so nobody else came before it.

        What it touched may be more than there is room for here. What comes from others meanwhile
        is thrown away with it, and makes a later generation that was not heard of.
        """
        self._monitor.forget()
        self._began = generation
        self._is_touched = False

    def close(self) -> None:
        """Stop listening."""
        self._monitor.close()


class Silence:
    """Tells nothing: where nf_tables is refused there is nothing to tell."""

    def __init__(self) -> None:
        """Make a descriptor that never becomes readable."""
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """That descriptor."""
        return self._descriptor

    def read(self) -> tuple[Change, ...]:
        """There is nothing."""
        return ()


def _is_pid_namespace_initial() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
