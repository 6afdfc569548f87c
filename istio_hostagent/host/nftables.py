"""The packet filter over netlink: what is there, and how it is changed.

Not here: bytes (`nfnetlink`), which transactions a change takes (`transactions`), what others
change (`changes`), what should be there (`redirect`).
A change is taken whole or not at all, under the generation that was looked at: if anybody else
commits in between, it is made anew from what is there then.
"""

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..config.packed import PackedRanges
from ..errors import ApplyRejected, HostAgentError, KernelBusy, NotPermitted, Overtaken
from ..redirect import model
from . import changes, loopback, routing, transactions
from .nfnetlink import connection, elements, framing, messages

_Head = TypeVar("_Head")

# Others commit in well under a millisecond; this many in a row is a fight, not a coincidence.
_MAX_TRIES = 20


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

    def fileno(self) -> int:
        """The descriptor of that socket."""
        return self.socket.fileno()

    @property
    def port(self) -> int:
        """The number by which the kernel announces our transactions."""
        return self._connection.port

    def close(self) -> None:
        """End the socket, and with its last copy the tables that it owns."""
        self.socket.close()

    def observe(self) -> model.Observed:
        """Everything we own, as it is now; raises KernelBusy, NotPermitted."""
        generation = self._connection.generation()
        tables = self._read_tables()
        if generation == self._connection.generation():
            return _observed(tables, generation)
        with contextlib.closing(changes.Witness(self._connection)) as witness:
            return self._observe_beside(witness)

    def _observe_beside(self, witness: changes.Witness) -> model.Observed:
        """Everything we own, while others commit, as long as they leave it alone."""
        for _ in range(_MAX_TRIES):
            tables = self._read_tables()
            generation = self._connection.generation()
            if witness.is_untouched_until(generation):
                return _observed(tables, generation)
            witness.begin_anew()
        raise KernelBusy("others keep changing our rules while they are read")

    def _read_tables(self) -> tuple[model.TableState, ...]:
        """Our tables; whether they are of one moment is for the caller to find out."""
        chains: dict[str, list[tuple[str, model.Hook | None]]] = {}
        for table, chain, hook in self._dump_all(messages.GETCHAIN, messages.read_chain):
            chains.setdefault(table, []).append((chain, hook))
        return tuple(
            self._read_table(head, sorted(chains.get(head.name, ()))) for head in self._heads()
        )

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Give those of `addresses` that are on `lo` now; raises KernelBusy, NotPermitted."""
        return loopback.observe(addresses)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        """Give our routing rules and routes; raises KernelBusy, NotPermitted."""
        return routing.observe()

    def _heads(self) -> list[messages.TableHead]:
        found = self._dump_all(messages.GETTABLE, messages.read_table)
        return sorted(head for head in found if head.name in model.OUR_TABLES)

    def _dump_all(self, command: int, read: Callable[[bytes], _Head]) -> list[_Head]:
        """What cannot be asked of one table alone: others' objects move ours within it."""
        for _ in range(_MAX_TRIES):
            with contextlib.suppress(KernelBusy):
                return list(map(read, self._connection.dump(command)))
        raise KernelBusy("others keep changing the rules while they are read")

    def _dump(self, command: int, body: bytes) -> Iterator[bytes]:
        """The objects of one table or set, whatever others do beside it."""
        return self._connection.dump(command, body, is_strict=False)

    def _read_table(
        self, head: messages.TableHead, chains: Sequence[tuple[str, model.Hook | None]]
    ) -> model.TableState:
        name = head.name
        rules: dict[str, list[model.RuleState]] = {}
        for body in self._dump(messages.GETRULE, framing.pack_text(1, name)):
            chain, rule = messages.read_rule(body)
            rules.setdefault(chain, []).append(rule)
        return model.TableState(
            name,
            tuple(self._read_sets(name)),
            tuple(
                model.ChainState(chain, tuple(rules.get(chain, ())), hook)
                for chain, hook in chains
            ),
            self._owner(head),
            bool(head.flags & messages.TABLE_DORMANT),
            tuple(self._read_timeouts(name)),
        )

    def _read_timeouts(self, table: str) -> list[model.Timeout]:
        """All objects: those of other kinds are somebody else's."""
        of_table = framing.pack_text(1, table)
        return sorted(map(messages.read_timeout, self._dump(messages.GETOBJ, of_table)))

    def _read_sets(self, table: str) -> Iterator[model.NamedSet]:
        of_table = framing.pack_text(1, table)
        heads = map(messages.read_set, self._dump(messages.GETSET, of_table))
        for name, kind, room in sorted(heads):
            width = model.WIDTHS.get(kind)
            if width is None:
                yield model.NamedSet(name, kind, PackedRanges(1))
                continue
            of_set = of_table + framing.pack_text(2, name)
            answers = self._dump(messages.GETSETELEM, of_set)
            has_values = kind.endswith(model.VALUES)
            read = elements.read_values if has_values else elements.read_ranges
            yield model.NamedSet(name, kind, read(answers, width), room)

    def _owner(self, head: messages.TableHead) -> model.Owner:
        if not head.flags & messages.TABLE_OWNER:
            return model.Owner.NOBODY
        return model.Owner.WE if head.owner == self._connection.port else model.Owner.OTHER

    def apply(self, plan: model.Plan) -> None:
        """Make the plan true; its tables whole or not at all.

        Raises ApplyRejected, NotPermitted, KernelBusy. Addresses and routes are there before the
        rules that need them, and go after these. One that the kernel refuses keeps no rule out:
        what is captured and cannot be handed on is better than what goes around.
        """
        added: list[Callable[[], None]] = []
        refused: HostAgentError | None = None
        try:
            for address in plan.add_addresses:
                loopback.add(address)
                added.append(functools.partial(loopback.delete, address))
            for each in plan.add_routing:
                routing.add(each)
                added.append(functools.partial(routing.delete, each))
        except HostAgentError as error:
            refused = error
        try:
            if plan.write or plan.delete:
                self._commit(plan)
        except HostAgentError:
            for undo in added:
                undo()
            raise
        for address in plan.delete_addresses:
            loopback.delete(address)
        # A route before the rule that names its table, by which it is found.
        for each in reversed(plan.delete_routing):
            routing.delete(each)
        if refused is not None:
            raise refused

    def _commit(self, plan: model.Plan) -> None:
        """Change the tables, anew whenever somebody else's transaction comes in between."""
        if plan.observed.generation:
            with contextlib.suppress(KernelBusy):
                ground = _Ground(self._connection, plan.observed.generation)
                self._change(plan, plan.observed, ground)
                return
        with contextlib.closing(changes.Witness(self._connection)) as witness:
            for _ in range(_MAX_TRIES):
                observed = self._observe_beside(witness)
                with contextlib.suppress(KernelBusy):
                    ground = _Ground(self._connection, observed.generation, witness)
                    self._change(plan, observed, ground)
                    return
        raise KernelBusy("others keep changing the rules while ours are put in")

    def _change(self, plan: model.Plan, observed: model.Observed, ground: "_Ground") -> None:
        present = {table.name: table for table in observed.tables}
        self._refuse_foreign(plan, present)
        whole = [t for t in plan.write if t.name in present]
        whole = [t for t in whole if not transactions.is_changeable(t, present[t.name])]
        parts = [t for t in plan.write if t not in whole]
        # The guard is never rebuilt together with what it guards.
        self._switch(parts, plan.delete, present, ground)
        for table in whole:
            self._replace(table, present, ground)

    def _switch(
        self,
        tables: Sequence[model.TableState],
        delete: Sequence[str],
        present: transactions.Present,
        ground: "_Ground",
    ) -> None:
        """Prepare, then switch over."""
        is_prepared = False
        try:
            for portion in transactions.portions(transactions.prepare(tables, present)):
                is_prepared |= ground.commit(lambda portion=portion: portion)  # type: ignore[misc]
            ground.commit(lambda: transactions.switch(tables, delete, present))
        except HostAgentError:
            for part in transactions.undo(tables, present) if is_prepared else ():
                # Refused if it has not been made yet, or somebody else has removed it already.
                with contextlib.suppress(ApplyRejected):
                    commit_soon(self._connection, lambda part=part: [part])  # type: ignore[misc]
            raise

    def _replace(
        self, table: model.TableState, present: transactions.Present, ground: "_Ground"
    ) -> None:
        """Make a table anew while a stand-in of the same rules keeps capturing."""
        stand_in = table._replace(name=model.STAND_IN_TABLE, owner=model.Owner.NOBODY)
        is_needed = table.name == model.MAIN_TABLE and stand_in.name not in present
        if is_needed:
            self._switch((stand_in,), (), {}, ground)
        try:
            ground.commit(lambda: transactions.replace(table))
        finally:
            if is_needed:
                away = [messages.delete_table(stand_in.name)]
                commit_soon(self._connection, lambda: away)
                ground.moved()

    def _refuse_foreign(self, plan: model.Plan, present: transactions.Present) -> None:
        """Raise NotPermitted if a table that must change has another owner."""
        affected = {table.name for table in plan.write} | set(plan.delete)
        if all(present[n].owner is not model.Owner.OTHER for n in affected & present.keys()):
            return
        for head in self._heads():
            if head.name in affected and self._owner(head) is model.Owner.OTHER:
                raise NotPermitted(
                    f"table inet {head.name} belongs to {_find_holder(head.owner)}",
                    hint="stop that process; the kernel then removes the table",
                )


def _observed(tables: tuple[model.TableState, ...], generation: int) -> model.Observed:
    addresses = loopback.observe((model.PASSTHROUGH_ADDRESS,))
    return model.Observed(tables, addresses, generation, routing.observe())


class _Ground:
    """What a change stands on: our tables as they were read, at a generation.

    Without a `witness` every transaction of somebody else takes it away, with one only those that
    touch our tables.
    """

    def __init__(
        self,
        link: connection.Connection,
        generation: int,
        witness: changes.Witness | None = None,
    ) -> None:
        self._link = link
        self._generation = generation
        self._witness = witness

    def commit(self, build: Callable[[], Iterable[messages.Message]]) -> bool:
        """Commit what `build` gives; False: nothing. Raises what `Connection.commit` raises.

        KernelBusy: our tables may not be what they were.
        """
        for _ in range(_MAX_TRIES):
            try:
                is_done = self._link.commit(build(), self._current)
            except Overtaken:
                if self._witness is None:
                    raise
                continue
            if is_done:
                # It never is 0.
                self._generation = (self._generation + 1) & 0xFFFFFFFF or 1
                if self._witness is not None:
                    self._witness.begin_at(self._generation)
            return is_done
        raise KernelBusy("others keep changing the rules while ours are put in")

    def _current(self) -> int:
        if self._witness is not None:
            generation = self._link.generation()
            if not self._witness.is_untouched_until(generation):
                raise KernelBusy("somebody else changed our rules at the same moment")
            self._generation = generation
        return self._generation

    def moved(self) -> None:
        """Something of ours was committed beside it, in a table that it does not stand on."""
        self._generation = self._link.generation()


def commit_soon(
    link: connection.Connection, build: Callable[[], Iterable[messages.Message]]
) -> None:
    """Commit what `build` gives, made anew whenever somebody else's transaction comes between.

    Raises what `Connection.commit` raises; KernelBusy only after many tries.
    """
    for _ in range(_MAX_TRIES):
        try:
            link.commit(build())
        except KernelBusy:
            continue
        return
    raise KernelBusy("others keep changing the rules while ours are put in")


def _find_holder(port: int) -> str:
    """Name the process that holds the nf_tables socket of this port, as far as /proc tells."""
    inodes = set()
    with open("/proc/net/netlink", encoding="ascii") as lines:
        next(lines)  # names of the columns
        for line in lines:
            fields = line.split()
            if int(fields[1]) == connection.NETLINK_NETFILTER and int(fields[2]) == port:
                inodes.add(f"socket:[{fields[-1]}]")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # the process ended, or is out of reach
            if _has_open(f"/proc/{pid}/fd", inodes):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as name:
                    return f"process {pid} ({name.read().strip()})"
    return f"another process (netlink port {port})"


def _has_open(directory: str, targets: set[str]) -> bool:
    """Whether a process whose descriptors these are has one of `targets`; raises OSError."""
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):  # closed at this moment
            if os.readlink(os.path.join(directory, name)) in targets:
                return True
    return False
