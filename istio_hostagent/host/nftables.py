"""The packet filter over netlink: what is there, one transaction to change it, who changed it.

Not here: bytes (`nfnetlink`), what should be there (`redirect`).
A table is only ever replaced as a whole. Both tables go in together or not at all, under the
generation that was looked at: if anybody else commits in between, the transaction is made anew.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import HostAgentError, KernelBusy, NotPermitted
from ..redirect import model
from . import loopback
from .nfnetlink import connection, framing, messages

_NFTABLES_GROUP = 7  # NFNLGRP_NFTABLES
_NEWGEN = 10 << 8 | messages.NEWGEN
_GEN_PID, _GEN_NAME = 2, 3  # NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
# Others commit in well under a millisecond; this many in a row is a fight, not a coincidence.
_MAX_TRIES = 20
_EVENT_BUFFER = 1 << 20


class NftKernel:
    """The tables with our names, and our addresses on `lo`, in this network namespace."""

    def __init__(self, sock: socket.socket | None = None, *, is_owner: bool) -> None:
        """Use a socket that was kept from an earlier process, or open one; raises NotPermitted."""
        self._connection = connection.Connection(sock)
        self._is_owner = is_owner

    @property
    def is_owner(self) -> bool:
        """Whether what we install belongs to our socket alone (NFT_TABLE_F_OWNER)."""
        return self._is_owner

    @property
    def socket(self) -> socket.socket:
        """What an owned table lives and dies with; for the descriptor store."""
        return self._connection.socket

    def close(self) -> None:
        """End the socket, and with its last copy the tables that it owns."""
        self.socket.close()

    def observe(self) -> model.Observed:
        """Everything we own, as it is now; raises KernelBusy, NotPermitted."""
        for _ in range(_MAX_TRIES):
            try:
                generation = self._connection.generation()
                tables = tuple(self._read_table(head) for head in self._heads())
                is_whole = generation == self._connection.generation()
            except KernelBusy:
                continue
            if is_whole:
                addresses = loopback.observe((model.PASSTHROUGH_ADDRESS,))
                return model.Observed(tables, addresses)
        raise KernelBusy("others keep changing the rules while they are read")

    def _heads(self) -> list[messages.TableHead]:
        found = map(messages.read_table, self._connection.dump(messages.GETTABLE))
        return sorted(head for head in found if head.name in model.OUR_TABLES)

    def _read_table(self, head: messages.TableHead) -> model.TableState:
        name = head.name
        rules: dict[str, list[model.RuleState]] = {}
        for body in self._connection.dump(messages.GETRULE, framing.pack_text(1, name)):
            chain, rule = messages.read_rule(body)
            rules.setdefault(chain, []).append(rule)
        found = map(messages.read_chain, self._connection.dump(messages.GETCHAIN))
        chains = sorted((chain, hook) for table, chain, hook in found if table == name)
        return model.TableState(
            name,
            tuple(self._read_sets(name)),
            tuple(
                model.ChainState(chain, tuple(rules.get(chain, ())), hook)
                for chain, hook in chains
            ),
            self._owner(head),
            bool(head.flags & messages.TABLE_DORMANT),
        )

    def _read_sets(self, table: str) -> Iterator[model.NamedSet]:
        of_table = framing.pack_text(1, table)
        heads = map(messages.read_set, self._connection.dump(messages.GETSET, of_table))
        for name, kind in sorted(heads):
            elements: list[tuple[int, bool]] = []
            of_set = of_table + framing.pack_text(2, name)
            for body in self._connection.dump(messages.GETSETELEM, of_set):
                elements += messages.read_elements(body)
            yield model.NamedSet(name, kind, messages.to_ranges(elements, kind))

    def _owner(self, head: messages.TableHead) -> model.Owner:
        if not head.flags & messages.TABLE_OWNER:
            return model.Owner.NOBODY
        return model.Owner.WE if head.owner == self._connection.port else model.Owner.OTHER

    def apply(self, plan: model.Plan) -> None:
        """Make the whole plan true or nothing of it.

        Raises ApplyRejected, NotPermitted, KernelBusy. The addresses are there before the rules
        that need them, and go after these.
        """
        added: list[str] = []
        try:
            for address in plan.add_addresses:
                loopback.add(address)
                added.append(address)
            if plan.write or plan.delete:
                self._commit(plan)
        except HostAgentError:
            for address in added:
                loopback.delete(address)
            raise
        for address in plan.delete_addresses:
            loopback.delete(address)

    def _commit(self, plan: model.Plan) -> None:
        def build() -> list[messages.Message]:
            parts = [messages.delete_table(name) for name in self._present(plan)]
            for table in plan.write:
                parts += build_messages(table, is_owned=table.owner is model.Owner.WE)
            return parts

        commit_soon(self._connection, build)

    def _present(self, plan: model.Plan) -> list[str]:
        """Give the tables to be removed first; raises NotPermitted if one has another owner."""
        affected = {table.name for table in plan.write} | set(plan.delete)
        heads = [head for head in self._heads() if head.name in affected]
        for head in heads:
            if self._owner(head) is model.Owner.OTHER:
                raise NotPermitted(
                    f"table inet {head.name} belongs to {_find_holder(head.owner)}",
                    hint="stop that process; the kernel then removes the table",
                )
        return [head.name for head in heads]


def commit_soon(
    link: connection.Connection, build: Callable[[], Sequence[messages.Message]]
) -> None:
    """Commit what `build` gives, made anew whenever somebody else's transaction comes between.

    Raises what `Connection.commit` raises; KernelBusy only after many tries.
    """
    for _ in range(_MAX_TRIES):
        try:
            generation = link.generation()
            parts = build()
            if parts:
                link.commit(parts, generation)
        except KernelBusy:
            continue
        return
    raise KernelBusy("others keep changing the rules while ours are put in")


def build_messages(table: model.TableState, *, is_owned: bool) -> Iterator[messages.Message]:
    """Everything that makes `table`, in an order in which each part finds what it names."""
    yield messages.new_table(table.name, is_owned=is_owned)
    for chain in table.chains:
        yield messages.new_chain(table.name, chain.name, chain.hook)
    for number, named_set in enumerate(table.sets, 1):
        yield messages.new_set(table.name, named_set, number)
        yield from messages.new_elements(table.name, named_set, number)
    for chain in table.chains:
        for rule in chain.rules:
            yield messages.new_rule(table.name, chain.name, rule)


def _find_holder(port: int) -> str:
    """Name the process that holds the nf_tables socket of this port, as far as /proc tells."""
    inodes = set()
    for line in Path("/proc/net/netlink").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1]) == connection.NETLINK_NETFILTER and int(fields[2]) == port:
            inodes.add(f"socket:[{fields[-1]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            is_holder = os.readlink(link) in inodes
        except OSError:
            continue  # the process ended, or is out of reach
        if is_holder:
            process = link.parent.parent
            return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return f"another process (netlink port {port})"


class Change(NamedTuple):
    """One committed transaction: by whom. Pid 0: some were missed, look at everything."""

    pid: int
    process_name: str


class ChangeMonitor:
    """Tells who committed anything to nf_tables in this network namespace."""

    def __init__(self) -> None:
        """Start listening; raises NotPermitted."""
        self._socket = connection.open_socket((_NFTABLES_GROUP,))
        connection.force_receive_buffer(self._socket, _EVENT_BUFFER)

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def read(self) -> tuple[Change, ...]:
        """Take what has come so far, oldest first; never blocks."""
        changes: list[Change] = []
        while True:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return tuple(changes)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changes.append(Change(0, ""))
                continue
            for message in framing.split_messages(data):
                if message.kind == _NEWGEN:
                    found = framing.read(message.body[4:])
                    pid = framing.be32(found.get(_GEN_PID, b""))
                    changes.append(Change(pid, framing.text(found.get(_GEN_NAME, b""))))
