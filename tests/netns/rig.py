"""A host with rules and a neighbour with real servers, for tests that send packets.

    host 10.1.0.2, fd00:1::2  ── eth0 ──  neighbour 10.1.0.1, fd00:1::1, default route of the host

The neighbour also has the destinations that the standard rules capture; the host has servers where
the proxy would listen. Every answer tells who gave it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from istio_hostagent.agent import events, prober, tasks
from istio_hostagent.agent.oneshot import kernel, legacy
from istio_hostagent.config import model as config
from istio_hostagent.errors import HostAgentError
from istio_hostagent.host import children, clock, mailbox, nftables, ports, probing
from istio_hostagent.redirect import expectations, model, plan, policy, probes
from tests.lab import netns, servers
from tests.lab.host import CHECKOUT, PYTHON

APP, PROXY_USER, PROXY_GROUP = 61500, 61337, 61338
HOST_V4, HOST_V6 = "10.1.0.2", "fd00:1::2"
NEIGHBOUR_V4, NEIGHBOUR_V6 = "10.1.0.1", "fd00:1::1"
CAPTURED_V4, CAPTURED_V6 = "10.96.0.5", "fd00:10::5"
EXCLUDED_V4, UNLISTED_V4, UNLISTED_V6 = "10.96.1.5", "203.0.113.5", "fd00:20::5"
METADATA_V4 = "169.254.169.254"
FACTS = config.HostFacts(
    PROXY_USER,
    PROXY_GROUP,
    ssh_ports=(22,),
    addresses=(ip_address(HOST_V4), ip_address(HOST_V6)),
)
ELSEWHERE = (CAPTURED_V4, EXCLUDED_V4, UNLISTED_V4, METADATA_V4, CAPTURED_V6, UNLISTED_V6)


@dataclass(frozen=True)
class Rig:
    """The two namespaces."""

    host: netns.Namespace
    neighbour: netns.Namespace

    @contextlib.contextmanager
    def kernel(self, *, is_owner: bool = False) -> Iterator[nftables.NftKernel]:
        made = self.host.inside(lambda: nftables.NftKernel(is_owner=is_owner))
        with contextlib.closing(made):
            yield made

    def apply(self, kernel: nftables.NftKernel, desired: model.Ruleset) -> model.Plan:
        def act() -> model.Plan:
            planned = plan.make_plan(desired, kernel.observe(), owned=kernel.is_owner)
            kernel.apply(planned)
            return planned

        return self.host.inside(act)

    def observe(self, kernel: nftables.NftKernel) -> model.Observed:
        return self.host.inside(kernel.observe)

    def install(self, redirection: config.Redirection) -> model.Ruleset:
        desired = policy.build_ruleset(redirection, FACTS)
        with self.kernel() as nft:
            self.apply(nft, desired)
        return desired

    def ask_legacy(self, method: str, desired: model.Ruleset) -> Any:
        """Ask something of legacy tables in the host; raises HostAgentError."""

        def act() -> Any:
            return kernel.ask(getattr(legacy.make(), method), desired)

        return self.host.inside(act)

    def install_legacy(self, redirection: config.Redirection) -> model.Ruleset:
        desired = policy.build_ruleset(redirection, FACTS)
        self.ask_legacy("install", desired)
        return desired

    def clean(self) -> None:
        self.ask_legacy("install", model.Ruleset())
        with self.kernel() as nft:
            self.apply(nft, model.Ruleset())

    def nft(self, *arguments: str, text: str = "", check: bool = True) -> str:
        argv = ["nft", *(arguments or ("-f", "-"))]
        return self.host.run(argv, stdin=text, check=check).stdout

    def worker(self, name: str, request: object, **env: str) -> Any:
        """Ask one of the product's workers, started as the agent starts it."""
        launch = str(CHECKOUT / "istio_hostagent" / "workers" / "launch.py")
        argv = [PYTHON, "-I", launch, name]
        if env:
            argv = [PYTHON, "-m", f"istio_hostagent.workers.{name}"]
        done = self.host.run(argv, stdin=json.dumps(request), env=env, cwd=CHECKOUT, check=True)
        return json.loads(done.stdout)


class Packets:
    """The sender of probe packets as the agent has it, in one namespace: sockets are kept."""

    def __init__(self, space: netns.Namespace, sender: ports.Packets | None = None) -> None:
        self._space = space
        self._inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
        self._clock = clock.SystemClock()
        self._work = tasks.Tasks(
            self._inbox, self._clock, children.Processes(self._inbox, record="")
        )
        self._prober = prober.Prober(self._work, self._clock, sender or probing.Packets())

    def findings(
        self, redirection: config.Redirection, facts: config.HostFacts = FACTS
    ) -> list[expectations.Finding]:
        made = probes.build_expectations(redirection, facts)
        return list(map(expectations.evaluate, made, self.outcomes(made, facts)))

    def outcomes(
        self, made: tuple[expectations.Expectation, ...], facts: config.HostFacts = FACTS
    ) -> prober.Outcomes:
        """Raises HostAgentError."""
        return self._space.inside(lambda: self._prove(made, facts))

    def _prove(
        self, made: tuple[expectations.Expectation, ...], facts: config.HostFacts
    ) -> prober.Outcomes:
        found: list[prober.Outcomes | HostAgentError] = []
        self._prober.prove(made, facts, found.append)
        while not found:
            due_at = self._prober.deadline()
            left = 10.0 if due_at is None else max(due_at - self._clock.monotonic(), 0.0)
            for event in self._inbox.wait(left):
                if isinstance(event, events.TaskEnded):
                    self._work.ended(event.name)
            self._prober.tick()
        if isinstance(found[0], HostAgentError):
            raise found[0]
        return found[0]

    def close(self) -> None:
        self._prober.close()


@contextlib.contextmanager
def make() -> Iterator[Rig]:
    """Build the two namespaces and take them away again."""
    with netns.Namespace("host") as host, netns.Namespace("neighbour") as neighbour:
        netns.link(
            host,
            neighbour,
            [f"{HOST_V4}/24", f"{HOST_V6}/64"],
            [f"{NEIGHBOUR_V4}/24", f"{NEIGHBOUR_V6}/64"],
        )
        for address in ELSEWHERE:
            neighbour.add_address("lo", f"{address}/{128 if ':' in address else 32}")
        host.ip("route", "add", "default", "via", NEIGHBOUR_V4)
        host.ip("-6", "route", "add", "default", "via", NEIGHBOUR_V6)
        yield Rig(host, neighbour)


@dataclass(frozen=True)
class Servers:
    """Who answers on the rig: `outbound` says what the client wanted, the others who they are."""

    outbound: servers.Server
    inbound: servers.Server
    host: servers.Server
    neighbour: servers.Server


@contextlib.contextmanager
def serve(rig: Rig) -> Iterator[Servers]:
    """Put servers where the proxy and applications listen, and real ones at the neighbour."""

    def everywhere(*ports: int) -> list[tuple[str, int]]:
        return [(host, port) for port in ports for host in ("0.0.0.0", "::")]

    def speaker(space: netns.Namespace, word: str, *ports: int, user: int) -> servers.Server:
        (host, port), *also = everywhere(*ports)
        kind = servers.Kind.RECORD
        return servers.Server(space, kind, host, port, banner=word, also=also, idle_s=2, user=user)

    kind = servers.Kind.ORIGINAL_DESTINATION
    with (
        servers.Server(
            rig.host, kind, "0.0.0.0", 15001, also=[("::", 15001)], user=PROXY_USER
        ) as outbound,
        speaker(rig.host, "inbound\n", 15006, user=PROXY_USER) as inbound,
        # These ports are below 1024: only root may serve them.
        speaker(rig.host, "host\n", 22, 8080, 8081, 15008, 15021, user=0) as host,
        speaker(rig.neighbour, "neighbour\n", 80, 3306, 22, user=0) as neighbour,
    ):
        yield Servers(outbound, inbound, host, neighbour)


def words(reply: servers.Reply) -> str:
    """What was said, or how it failed."""
    return reply.received.strip() or reply.outcome


def target(host: str, port: int, **options: Any) -> servers.Target:
    """An attempt that ends with the first line, whoever answers."""
    made = servers.Target(host, port, payload="", timeout_s=2.0, until=4)
    return replace(made, **options)
