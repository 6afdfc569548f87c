"""Connections that go around the proxy, or get nowhere, while rules are replaced again and again.

For each family a thread connects to captured destinations all the time. A listener where Envoy
would be takes what is captured; a neighbour, who has all these addresses, takes what is not. Ours
replaces the rules as a reload does, in nf_tables or in legacy tables; the peer as its start script
does (it cleans, then applies), and at its best: iptables-restore with rules made before, which
commits a table of one family at once.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from istio_hostagent.agent import reconcile
from istio_hostagent.agent.oneshot import kernel as question
from istio_hostagent.agent.oneshot import legacy
from istio_hostagent.host import nftables
from istio_hostagent.redirect import model
from tests.lab import netns
from tests.lab.host import proxy_user

from . import budgets, cost, files, installs, istio, restore, rows

KEYS = ("escapes", "escapes-legacy")
RELOADS, LEGACY_RELOADS, PEER_RELOADS = 1000, 50, 10
PAUSE_S = 0.01
RATE = 1000  # of each family
_SHIPPED = "istio-iptables as its start script runs it"
_CAPTURED = ("10.96.0.0/12", "fd00:10::/64")
_KEYS, _CHANGED = (
    {**keys, "ISTIO_SERVICE_CIDR": f"{keys['ISTIO_SERVICE_CIDR']},{_CAPTURED[1]}"}
    for keys in (files.STANDARD, files.CHANGED)
)
_CAPTURE_PORT = 15001
_PATIENCE_S = 2.0
_RESET = struct.pack("ii", 1, 0)


def measure(directory: Path, programs: istio.Programs | rows.Missing) -> rows.Outcomes:
    """All rows of KEYS, for 1 000 reloads. Raises NotMeasured, LabError."""
    ours = _run(lambda: _reload(directory), RELOADS)
    of_legacy = _run(lambda: _reload_legacy(directory), LEGACY_RELOADS)
    shipped: list[float] | rows.Missing
    restored: list[float] | rows.Missing
    if isinstance(programs, rows.Missing):
        shipped = restored = programs
    else:
        commands = istio.shipped_rules(programs, _KEYS, istio.DUAL_STACK)
        texts = _restore_texts(programs, directory)
        shipped = [_run(lambda: _run_script(commands), PEER_RELOADS).lost]
        restored = [_run(lambda: _restore(texts), LEGACY_RELOADS).lost]
    note = (
        f"{RELOADS} replacements at {ours.rate:.0f} connections/s, both families, the slowest"
        f" {ours.slowest_ms:.0f} ms; others are scaled up from {LEGACY_RELOADS}, {_SHIPPED} from"
        f" {PEER_RELOADS}"
    )
    legacy_note = (
        f"at {of_legacy.rate:.0f} connections/s, the slowest {of_legacy.slowest_ms:.0f} ms"
    )
    return {
        "escapes": rows.make_result([ours.lost], {_SHIPPED: shipped}, [note]),
        "escapes-legacy": rows.make_result(
            [of_legacy.lost], {budgets.LEGACY_RESTORE: restored, _SHIPPED: shipped}, [legacy_note]
        ),
    }


def _rulesets(directory: Path) -> list[model.Ruleset]:
    facts = installs.probe(directory)
    return [installs.build_rules(files.keys_text(keys), facts) for keys in (_KEYS, _CHANGED)]


def _reload(directory: Path) -> Iterator[None]:
    """Install our rules, then replace them at each step."""
    rulesets = _rulesets(directory)
    with contextlib.closing(nftables.NftKernel(is_owner=False)) as kernel:
        for number in range(RELOADS + 1):
            reconcile.reconcile(rulesets[number % 2], kernel)
            yield
            time.sleep(PAUSE_S)


def _reload_legacy(directory: Path) -> Iterator[None]:
    """The same in legacy tables, by the workers that do it for the agent."""
    rulesets = _rulesets(directory)
    for number in range(LEGACY_RELOADS + 1):
        question.ask(legacy.make().install, rulesets[number % 2])
        yield
        time.sleep(PAUSE_S)


def _restore_texts(programs: istio.Programs, directory: Path) -> list[list[list[str]]]:
    """The commands that put the standard rules in, and the changed ones, of both families."""
    found = []
    for number, keys in enumerate((_KEYS, _CHANGED)):
        commands = []
        for program in ("iptables", "ip6tables"):
            file = directory / f"{program}-{number}.legacy"
            file.write_text(
                restore.save_rules(programs, "legacy", keys, istio.DUAL_STACK, program=program)
            )
            commands.append(restore.restore_argv("legacy", file, program=program))
        found.append(commands)
    return found


def _restore(commands: list[list[list[str]]]) -> Iterator[None]:
    """Install the peer's rules, then replace them at each step."""
    for number in range(LEGACY_RELOADS + 1):
        for argv in commands[number % 2]:
            cost.run(argv)
        yield
        time.sleep(PAUSE_S)


def _run_script(commands: tuple[list[str], ...]) -> Iterator[None]:
    """Install the peer's rules, then do it again at each step."""
    for _ in range(PEER_RELOADS + 1):
        for argv in commands:
            cost.run(argv, istio.environment(argv))
        yield


def _run(begin: Callable[[], Iterator[None]], count: int) -> "_Flow":
    """Let connections flow over `count` reloads, once the rules are there for the first time."""
    with netns.Namespace("host") as host, netns.Namespace("neighbour") as neighbour:
        ends = (["10.250.0.1/24", "fd00:250::1/64"], ["10.250.0.2/24", "fd00:250::2/64"])
        netns.link(neighbour, host, *ends)
        for gateway, captured in zip(("10.250.0.1", "fd00:250::1"), _CAPTURED, strict=True):
            version = "-6" if ":" in gateway else "-4"
            host.ip(version, "route", "add", "default", "via", gateway)
            neighbour.ip(version, "route", "add", "local", captured, "dev", "lo")
        with contextlib.ExitStack() as stack:
            flow = _Flow(count)
            for any_address, pattern in (("0.0.0.0", "10.97.{}.{}"), ("::", "fd00:10::{}:{}")):
                proxy = host.bind(any_address, _CAPTURE_PORT, uid=proxy_user()[0])
                around = neighbour.bind(any_address, 80)
                stage = _Stage(stack.enter_context(proxy), stack.enter_context(around), pattern)
                flow.add(stage)

            def act() -> None:
                reloads = begin()
                next(reloads)
                flow.begin()  # in the namespace of this thread
                try:
                    for _ in reloads:
                        pass
                finally:
                    flow.end()

            host.inside(act)
    if not flow.made:
        raise cost.NotMeasured("no connection was made while rules were replaced")
    return flow


class _Flow:
    """Connections of both families, and what became of them."""

    def __init__(self, reloads: int) -> None:
        self._stages: list[_Stage] = []
        self._reloads = reloads

    def add(self, stage: "_Stage") -> None:
        self._stages.append(stage)

    def begin(self) -> None:
        for stage in self._stages:
            stage.thread.start()

    def end(self) -> None:
        for stage in self._stages:
            stage.is_over.set()
            stage.thread.join()

    @property
    def made(self) -> int:
        return min(stage.made for stage in self._stages)

    @property
    def lost(self) -> float:
        """Connections that went around or got nowhere, for 1 000 reloads."""
        return sum(stage.missed for stage in self._stages) * 1000.0 / self._reloads

    @property
    def rate(self) -> float:
        """Connections a second."""
        return sum(stage.made / stage.took_s for stage in self._stages)

    @property
    def slowest_ms(self) -> float:
        return max(stage.slowest_ms for stage in self._stages)


class _Stage:
    """Connections of one family one after another."""

    def __init__(self, proxy: socket.socket, around: socket.socket, pattern: str) -> None:
        self._proxy, self._around, self._pattern = proxy, around, pattern
        proxy.setblocking(False)
        around.settimeout(_PATIENCE_S)
        for each in (proxy, around):
            each.listen()
        self.took_s = 0.0
        self.missed = 0
        self.made = 0
        self.slowest_ms = 0.0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        """Connect until it is over."""
        began = cost.now_ms()
        while not self.is_over.is_set():
            self.made += 1
            destination = self._pattern.format(self.made >> 8 & 255, self.made & 255)
            self.missed += not self._is_captured(destination)
            time.sleep(max(0.0, self.made / RATE - (cost.now_ms() - began) / 1000.0))
        self.took_s = (cost.now_ms() - began) / 1000.0

    def _is_captured(self, destination: str) -> bool:
        with socket.socket(self._proxy.family) as client:
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
