"""Very many networks in and out of the kernel, in this process, beside the library of nft(8).

As in `installs`: the CPU of the calling thread, all in one namespace, in turn, with somebody who
listens to changes.
"""

import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from istio_hostagent.agent import reconcile
from istio_hostagent.host import changes, nftables
from istio_hostagent.host.nfnetlink import connection, framing, messages
from istio_hostagent.redirect import model
from tests.lab import netns

from . import budgets, cost, files, installs, libnftables, rows

KEYS = (
    *("cidrs", "cidrs-text", "cidrs-all", "cidrs-all-text"),
    *("cidrs-one", "cidrs-one-elements", "cidrs-one-reload"),
)
ROUNDS, LARGEST_ROUNDS = 7, 5
_EVENTS_BUFFER = 256 << 20


def measure(directory: Path) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    with netns.Namespace("bench") as namespace:
        some = namespace.inside(lambda: _rounds(directory, files.LARGE_COUNT, ROUNDS))
        most = namespace.inside(lambda: _rounds(directory, files.LARGEST_COUNT, LARGEST_ROUNDS))
        one = namespace.inside(lambda: _one_more(directory))
    note = (
        "each network is in two sets, of the main and of the guard table; somebody listens to"
        " changes, as an agent does, and the kernel tells of each element"
    )
    found = {}
    for key, times in (("cidrs", some), ("cidrs-all", most)):
        peers: dict[str, list[float] | rows.Missing] = {
            budgets.LIBNFTABLES: times["library install"],
            installs.NFT_PROCESS: times["nft install"],
        }
        found[key] = rows.make_result(times["install"], peers, [note])
    found["cidrs-all"] = rows.make_result(
        most["install"],
        {budgets.SOME_CIDRS: some["install"], budgets.LIBNFTABLES: most["library install"]},
        [note],
    )
    found["cidrs-text"] = rows.make_result(some["text"])
    found["cidrs-all-text"] = rows.make_result(most["text"], {budgets.SOME_CIDRS: some["text"]})
    beside = {budgets.LIBNFTABLES: one["library"]}
    found["cidrs-one"] = rows.make_result(
        one["change"], beside, ["from both rule sets as values to the kernel's confirmation"]
    )
    found["cidrs-one-elements"] = rows.make_result(one["elements"])
    found["cidrs-one-reload"] = rows.make_result(one["reconcile"])
    return found


def _rounds(directory: Path, count: int, rounds: int) -> installs.Times:
    host = installs.probe(directory)
    keys = files.keys_text(files.large(count))
    rules = installs.build_rules(keys, host)
    file = directory / "large.nft"
    text = installs.render(rules)
    file.write_text(text)
    times: installs.Times = defaultdict(list)
    with _tools() as (kernel, library):
        for number in range(rounds + 1):
            installs.clear(kernel)
            installs.clock(times, "text", lambda: installs.build_rules(keys, host))
            seen = kernel.observe()
            installs.clock(times, "install", partial(installs.change, kernel, rules, seen))
            installs.must_be(kernel, rules)
            installs.clear(kernel)
            times["nft install"].append(cost.run([cost.NFT, "-f", str(file)]).cpu_ms)
            installs.clear(kernel)
            installs.clock(times, "library install", lambda: library.run(text))
            if number == 0:
                times.clear()
    return times


@contextlib.contextmanager
def _tools() -> Iterator[tuple[nftables.NftKernel, libnftables.Library]]:
    """Ours and the peer, in the namespace of this thread, and somebody who listens."""
    listener = changes.ChangeMonitor()
    kernel, library = nftables.NftKernel(is_owner=False), libnftables.Library()
    try:
        yield kernel, library
    finally:
        installs.clear(kernel)
        library.close()
        kernel.close()
        listener.close()


def _one_more(directory: Path) -> installs.Times:
    """One network more, and less again, beside the most; of messages every single one counts."""
    host = installs.probe(directory)
    keys = files.large(files.LARGEST_COUNT)
    more = {**keys, "ISTIO_SERVICE_CIDR": f"{keys['ISTIO_SERVICE_CIDR']},{files.ANOTHER_CIDR}"}
    rulesets = [installs.build_rules(files.keys_text(each), host) for each in (keys, more)]
    times: installs.Times = defaultdict(list)
    with _tools() as (kernel, library):
        installs.change(kernel, rulesets[0], kernel.observe())
        for number in range(2 * ROUNDS + 2):
            wanted = rulesets[1 - number % 2]
            seen = kernel.observe()
            with _listening() as told:
                installs.clock(times, "change", partial(installs.change, kernel, wanted, seen))
                times["elements"].append(_count_elements(told))
            installs.must_be(kernel, wanted)
            # The peer takes out, or puts back, what has just been changed.
            for verb in ("add", "delete") if number % 2 else ("delete", "add"):
                text = _element_text(seen, verb)
                installs.clock(times, "library", partial(library.run, text))
            other = rulesets[number % 2]
            installs.clock(times, "reconcile", partial(reconcile.reconcile, other, kernel))
            installs.change(kernel, wanted, kernel.observe())
            if number < 2:
                times.clear()
    return times


def _element_text(seen: model.Observed, verb: str) -> str:
    address = files.ANOTHER_CIDR.partition("/")[0]
    return "".join(
        f"{verb} element inet {table.name} {each.name} {{ {address} }}\n"
        for table in seen.tables
        for each in table.sets
        if each.room
    )


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    with connection.open_socket((7,)) as told:
        connection.force_receive_buffer(told, _EVENTS_BUFFER)
        told.setblocking(False)
        yield told


def _count_elements(told: socket.socket) -> float:
    """How many elements came or went in each table, by what the kernel has announced."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            for each in framing.split_messages(told.recv(1 << 20)):
                count += each.kind & 0xFF in (messages.NEWSETELEM, messages.DELSETELEM)
    return count / len(model.OUR_TABLES[:2])
