"""Connections that go around the proxy, or get nowhere, while rules are replaced again and again.

One thread connects to captured destinations all the time. A listener where Envoy would be takes
what is captured; a neighbour, who has all these addresses, takes what is not. Ours replaces the
rules as a reload does, the peer as its start script does (it cleans, then applies).
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from istio_hostagent.agent import reconcile
from istio_hostagent.host import nftables
from tests.lab import netns
from tests.lab.host import proxy_user

from . import cost, files, installs, istio, rows

KEYS = ("escapes",)
RELOADS, PEER_RELOADS = 1000, 10
PAUSE_S = 0.01
RATE = 2000
_SHIPPED = "istio-iptables as its start script runs it"
_CAPTURED = "10.96.0.0/12"
_CAPTURE_PORT = 15001
_PATIENCE_S = 2.0
_RESET = struct.pack("ii", 1, 0)


def measure(directory: Path, programs: istio.Programs | rows.Missing) -> rows.Outcomes:
    """Row escapes, for 1 000 reloads. Raises NotMeasured, LabError."""
    ours = _run(lambda: _reload(directory), RELOADS)
    peer: list[float] | rows.Missing
    if isinstance(programs, rows.Missing):
        peer = programs
    else:
        commands = istio.shipped_rules(programs, files.STANDARD)
        peer = [_run(lambda: _run_script(commands), PEER_RELOADS).lost]
    note = (
        f"{RELOADS} replacements at {ours.rate:.0f} connections/s, the slowest"
        f" {ours.slowest_ms:.0f} ms; the peer's are scaled up from {PEER_RELOADS}"
    )
    return {"escapes": rows.make_result([ours.lost], {_SHIPPED: peer}, [note])}


def _reload(directory: Path) -> Iterator[None]:
    """Install our rules, then replace them at each step."""
    facts = installs.probe(directory)
    rulesets = [
        installs.build_rules(files.keys_text(keys), facts)
        for keys in (files.STANDARD, files.CHANGED)
    ]
    with contextlib.closing(nftables.NftKernel(is_owner=False)) as kernel:
        for number in range(RELOADS + 1):
            reconcile.reconcile(rulesets[number % 2], kernel)
            yield
            time.sleep(PAUSE_S)


def _run_script(commands: tuple[list[str], ...]) -> Iterator[None]:
    """Install the peer's rules, then do it again at each step."""
    for _ in range(PEER_RELOADS + 1):
        for argv in commands:
            cost.run(argv)
        yield


def _run(begin: Callable[[], Iterator[None]], count: int) -> "_Flow":
    """Let connections flow over `count` reloads, once the rules are there for the first time."""
    with netns.Namespace("host") as host, netns.Namespace("neighbour") as neighbour:
        netns.link(neighbour, host, "10.250.0.1/24", "10.250.0.2/24")
        host.ip("route", "add", "default", "via", "10.250.0.1")
        neighbour.ip("route", "add", "local", _CAPTURED, "dev", "lo")
        with (
            host.bind("0.0.0.0", _CAPTURE_PORT, uid=proxy_user()[0]) as proxy,
            neighbour.bind("0.0.0.0", 80) as around,
        ):
            flow = _Flow(proxy, around, count)

            def act() -> None:
                reloads = begin()
                next(reloads)
                thread = threading.Thread(target=flow.run)  # in the namespace of this thread
                thread.start()
                try:
                    for _ in reloads:
                        pass
                finally:
                    flow.is_over.set()
                    thread.join()

            host.inside(act)
    if not flow.made:
        raise cost.NotMeasured("no connection was made while rules were replaced")
    return flow


class _Flow:
    """Connections one after another, and what became of them."""

    def __init__(self, proxy: socket.socket, around: socket.socket, reloads: int) -> None:
        self._proxy, self._around = proxy, around
        proxy.setblocking(False)
        around.settimeout(_PATIENCE_S)
        for each in (proxy, around):
            each.listen()
        self._reloads = reloads
        self._took_s = 0.0
        self._missed = 0
        self.made = 0
        self.slowest_ms = 0.0
        self.is_over = threading.Event()

    @property
    def lost(self) -> float:
        """Connections that went around or got nowhere, for 1 000 reloads."""
        return self._missed * 1000.0 / self._reloads

    @property
    def rate(self) -> float:
        """Connections a second."""
        return self.made / self._took_s

    def run(self) -> None:
        """Connect until it is over."""
        began = cost.now_ms()
        while not self.is_over.is_set():
            self.made += 1
            self._missed += not self._is_captured(
                f"10.97.{self.made >> 8 & 255}.{self.made & 255}"
            )
            time.sleep(max(0.0, self.made / RATE - (cost.now_ms() - began) / 1000.0))
        self._took_s = (cost.now_ms() - began) / 1000.0

    def _is_captured(self, destination: str) -> bool:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.settimeout(_PATIENCE_S)
            began = cost.now_ms()
            try:
                client.connect((destination, 80))
            except OSError:
                return False
            finally:
                self.slowest_ms = max(self.slowest_ms, cost.now_ms() - began)
            try:
                self._proxy.accept()[0].close()
            except BlockingIOError:
                with contextlib.suppress(TimeoutError):
                    self._around.accept()[0].close()
                return False
            return True
