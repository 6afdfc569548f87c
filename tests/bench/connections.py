"""Connection set-up under our rules: with very many service networks, and with one.

Three namespaces take turns, two at a time. In each, connections to captured destinations are redirected to a
listener where Envoy would be, so connect(2) pays for the rules, for tracking and for translation,
and for nothing else. Where destinations change from one connection to the next, the lookup of a
network does not find everything where it has just been.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from istio_hostagent.agent import reconcile
from istio_hostagent.host import nftables
from tests.lab import netns
from tests.lab.host import proxy_user

from . import budgets, cost, files, installs, rows

KEYS = ("connect", "connect-same", "connect-all", "connect-all-same")
BLOCKS, BLOCK = 60, 300
_CAPTURE_PORT = 15001
# Networks are taken in steps of a prime, all over the set.
_STEP = 7919
_LINGER = struct.pack("ii", 1, 0)


def measure(directory: Path) -> rows.Outcomes:
    """All rows of KEYS, in microseconds. Raises NotMeasured, LabError."""
    some, every = (list(files.large_cidrs(n)) for n in (files.LARGE_COUNT, files.LARGEST_COUNT))
    with contextlib.ExitStack() as stack:
        many, all_, one = (
            stack.enter_context(_contestant(directory, each)) for each in (some, every, some[:1])
        )
        found: dict[str, tuple[list[float], list[float]]] = {key: ([], []) for key in KEYS}
        for number in range(BLOCKS + 1):
            for key in KEYS:
                ours = all_ if key.startswith("connect-all") else many
                turns = [(ours, found[key][0]), (one, found[key][1])]
                # Whoever comes second finds the machine as the first has left it.
                for each, medians in turns if number % 2 else reversed(turns):
                    is_same = key.endswith("-same")
                    medians += [each.connect_some(is_same=is_same)] if number else []
    note = f"medians of {BLOCKS} blocks of {BLOCK} connections over loopback, in turn"
    return {
        key: rows.make_result(ours, {budgets.ONE_CIDR: with_one}, [note])
        for key, (ours, with_one) in found.items()
    }


@dataclass(frozen=True)
class _Contestant:
    namespace: netns.Namespace
    listener: socket.socket
    destinations: tuple[str, ...]

    def connect_some(self, *, is_same: bool) -> float:
        """The median of BLOCK connections, in microseconds; raises OSError."""
        destinations = self.destinations[:1] * BLOCK if is_same else self.destinations
        return self.namespace.inside(lambda: self._connect(destinations))

    def _connect(self, destinations: tuple[str, ...]) -> float:
        took = []
        for destination in destinations:
            with socket.socket() as client:
                # Closed with a reset: no port stays behind in TIME_WAIT.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                began = cost.now_ms()
                client.connect((destination, 80))
                took.append((cost.now_ms() - began) * 1000.0)
                # That it arrives here is that it was captured.
                self.listener.accept()[0].close()
        return rows.Samples(tuple(took)).median


@contextlib.contextmanager
def _contestant(directory: Path, networks: list[str]) -> Iterator[_Contestant]:
    """A namespace with rules for these networks, and the listener that takes what they capture."""
    keys = {**files.STANDARD, "ISTIO_SERVICE_CIDR": ",".join(networks)}
    destinations = [
        str(IPv4Network(networks[number * _STEP % len(networks)])[1 + number % 250])
        for number in range(BLOCK)
    ]
    with netns.Namespace("host") as host, netns.Namespace("network") as network:
        netns.link(network, host, "10.250.0.1/24", "10.250.0.2/24")
        host.ip("route", "add", "default", "via", "10.250.0.1")

        def install() -> None:
            rules = installs.build_rules(files.keys_text(keys), installs.probe(directory))
            with contextlib.closing(nftables.NftKernel(is_owner=False)) as kernel:
                reconcile.reconcile(rules, kernel)

        host.inside(install)
        with host.bind("0.0.0.0", _CAPTURE_PORT, uid=proxy_user()[0]) as listener:
            listener.settimeout(5.0)
            listener.listen()
            yield _Contestant(host, listener, tuple(destinations))
