"""The real parts of the agent on a host in memory, with everything that can happen to it.

What is checked whenever the agent does something is in `host` (the promises of design 2: proof
before service, no gap, last good state, kill anywhere, leaving is deliberate). Here: what happens,
and that no state is a dead end: once everything is good again and time passes, the host is in the
mesh, in truth and by its own words; and told to stop it leaves nothing.

A sample runs with everything else, for about twenty seconds; `make soak` runs thousands.
"""

import gc
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from istio_hostagent.host import procstate
from istio_hostagent.redirect import takeover
from tests.agent import machine, texts
from tests.agent.host import MemoryHost
from tests.agent.texts import (
    BAD,
    CLUSTER,
    ENVOY,
    GROUP,
    HOSTAGENT,
    OUTPUT,
    OWN,
    OWN_AUTO,
    PILOT_AGENT,
    SIDECAR,
    TEXTS,
    TOKEN,
)
from tests.lab import soak

pytestmark = pytest.mark.soak
names = st.sampled_from(sorted(TEXTS))
# From between two turns to longer than any pause.
durations = st.sampled_from([0.01, 0.3, 3.0, 35.0, 70.0, 400.0, 4000.0])
# Longer than every pause that a passing failure leads to: an hour.
MENDED_S = 2 * 3600.0
# How it is said that texts do not hold, and are not tried again by themselves.
VERDICT = "rejected (`reload` retries)"


class Life(RuleBasedStateMachine):
    """One host, from one of its possible starts on."""

    @initialize(
        is_owner=st.booleans(),
        is_foreign=st.booleans(),
        name=st.none() | names,
        is_joined=st.booleans(),
    )
    def begin(self, is_owner: bool, is_foreign: bool, name: str | None, is_joined: bool) -> None:
        self.host = MemoryHost(is_owner=is_owner)
        if is_foreign:  # OUTPUT_CERTS counts only from one of root's, so cluster.env stays that
            self.host.foreign.add(SIDECAR)
        if name is not None:
            self.host.write(CLUSTER, TEXTS[name])
        self.host.start()
        if is_joined and name is not None:
            self.host.until(lambda: self.host.is_in_mesh, 60.0, "in the mesh")

    @property
    def lives(self) -> bool:
        return self.host.agent is not None

    @rule(name=names)
    def write_file(self, name: str) -> None:
        self.host.write(CLUSTER, TEXTS[name])

    @rule(first=names, second=names)
    def write_file_twice(self, first: str, second: str) -> None:
        self.host.write(CLUSTER, TEXTS[first])
        self.host.settle()
        self.host.write(CLUSTER, TEXTS[second])

    @rule(what=st.sampled_from(["bad", "gone", "unreadable"]))
    def spoil_file(self, what: str) -> None:
        if what == "bad":
            self.host.write(CLUSTER, BAD)
        elif what == "gone":
            self.host.remove(CLUSTER)
        else:
            self.host.unreadable.add(CLUSTER)

    @rule(reader=st.sampled_from(machine.Reader))
    def change_reader(self, reader: machine.Reader) -> None:
        self.host.reader = reader

    @rule(ca=st.sampled_from(machine.Ca))
    def change_ca(self, ca: machine.Ca) -> None:
        self.host.ca = ca

    @rule(proxy=st.sampled_from(machine.Proxy), is_picky=st.booleans())
    def change_proxy(self, proxy: machine.Proxy, is_picky: bool) -> None:
        self.host.proxy, self.host.is_proxy_picky = proxy, is_picky

    @rule(loads=st.sampled_from(machine.Loads), is_wrong_at_start=st.booleans())
    def change_loading(self, loads: machine.Loads, is_wrong_at_start: bool) -> None:
        self.host.loads, self.host.is_wrong_at_start = loads, is_wrong_at_start

    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def end_proxy(self, number: signal.Signals) -> None:
        for child, _, _ in self.host.running:
            child.finish(-number)

    @rule(hold=st.sampled_from(procstate.Hold))
    def hold_proxy(self, hold: procstate.Hold) -> None:
        for child, _, _ in self.host.running:
            child.hold = hold

    @rule(is_there=st.booleans())
    def change_program(self, is_there: bool) -> None:
        if is_there:
            self.host.install(ENVOY)
        else:
            self.host.uninstall(ENVOY)

    @rule(is_auto=st.booleans(), is_there=st.booleans(), opens=st.booleans())
    def change_kind(self, is_auto: bool, is_there: bool, opens: bool) -> None:
        text = OWN_AUTO if is_auto else OWN
        self.host.write(HOSTAGENT, text + b"ISTIO_HOSTAGENT_FIREWALL=open\n" * opens)
        if is_there:
            self.host.install(PILOT_AGENT)
        else:
            self.host.uninstall(PILOT_AGENT)

    @rule(count=st.sampled_from([0, 1, 20]), is_told=st.booleans())
    def start_unit(self, count: int, is_told: bool) -> None:
        """A unit that is left alone starts so often; with 0 it ends."""
        self.host.groups.last_error = "" if is_told else "no inotify instance"
        self.host.groups.stop(GROUP)
        for _ in range(count):
            self.host.groups.start(GROUP)

    @rule(port=st.sampled_from([15001, 15006, 15101]))
    def take_port(self, port: int) -> None:
        self.host.ports.take(port)

    @rule()
    def free_ports(self) -> None:
        self.host.ports.taken.clear()

    @rule(rules=st.sampled_from(machine.Rules))
    def change_kernel(self, rules: machine.Rules) -> None:
        self.host.rules = rules

    @rule(count=st.sampled_from([1, 2, 15]))
    def flush(self, count: int) -> None:
        for _ in range(count):
            self.host.flush()
            self.host.settle()

    @rule()
    def lose_rule(self) -> None:
        self.host.lose_rule()

    @rule(network=st.sampled_from([None, "10.96.", "10.97.", "10.99."]))
    def steal(self, network: str | None) -> None:
        self.host.steal(network)

    @rule(is_shut=st.booleans())
    def shut(self, is_shut: bool) -> None:
        self.host.shut(is_shut=is_shut)

    @rule(kind=st.sampled_from(machine.Opener))
    def change_opener(self, kind: machine.Opener) -> None:
        self.host.opener = kind

    @rule()
    def load_firewall(self) -> None:
        self.host.openings.is_there = False
        self.host.tell(is_ours=False)

    @rule(part=st.sampled_from(takeover.Part))
    def run_istio(self, part: takeover.Part) -> None:
        self.host.run_istio(part)

    @rule(kind=st.sampled_from(machine.Takeover))
    def change_takeover(self, kind: machine.Takeover) -> None:
        self.host.takeover = kind

    @rule(is_full=st.booleans())
    def fill_disk(self, is_full: bool) -> None:
        self.host.disk.is_full = is_full

    @rule(is_refused=st.booleans())
    def refuse_fork(self, is_refused: bool) -> None:
        self.host.is_fork_refused = is_refused

    @rule(
        addresses=st.sampled_from(texts.ADDRESSES),
        ssh_ports=st.sampled_from(texts.SSH_PORTS),
        has_ipv6=st.booleans(),
    )
    def change_machine(
        self, addresses: tuple[object, ...], ssh_ports: tuple[int, ...], has_ipv6: bool
    ) -> None:
        self.host.change_facts(addresses=addresses, ssh_ports=ssh_ports, has_ipv6=has_ipv6)

    @rule(has_route=st.booleans())
    def change_route(self, has_route: bool) -> None:
        self.host.set_route(has_route=has_route)

    @rule()
    def lose_certificates(self) -> None:
        self.host.lose_certificates()

    @rule()
    def lose_stores(self) -> None:
        self.host.stores.clear()

    @precondition(lambda self: self.lives)
    @rule(is_away=st.booleans())
    def lose_manager(self, is_away: bool) -> None:
        self.host.notifier.is_away = is_away

    @rule()
    def change_token(self) -> None:
        self.host.write(TOKEN, b"new")

    @rule(seconds=st.sampled_from([-86400.0, -60.0, 60.0, 2 * 86400.0]))
    def set_clock(self, seconds: float) -> None:
        self.host.clock.set_wall(seconds)

    @precondition(lambda self: self.lives)
    @rule(is_deaf=st.booleans())
    def stop_watching(self, is_deaf: bool) -> None:
        self.host.watcher.is_deaf = is_deaf

    @precondition(lambda self: self.lives)
    @rule(verb=st.sampled_from(["status", "reload", "apply", "plan", "verify", "renew", "wait"]))
    def ask(self, verb: str) -> None:
        self.host.ask(verb)

    @precondition(lambda self: self.lives)
    @rule(steps=st.integers(0, 12))
    def kill_soon(self, steps: int) -> None:
        self.host.kill_after = steps

    @precondition(lambda self: self.lives)
    @rule()
    def kill(self) -> None:
        self.host.kill()

    @rule()
    def boot(self) -> None:
        self.host.boot()

    @precondition(lambda self: self.lives)
    @rule()
    def stop(self) -> None:
        self.host.stop()

    @precondition(lambda self: not self.lives)
    @rule()
    def start(self) -> None:
        self.host.start()

    @rule(seconds=durations)
    def wait(self, seconds: float) -> None:
        self.host.run(seconds)

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "host"):
            self.host.settle()
            self.host.check()

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        host = self.host
        host.mend()
        if not self.lives:
            host.start()
        name = host.written
        if not name:
            name = "A"
            host.write(CLUSTER, TEXTS[name])
        host.until(lambda: host.is_in_mesh, MENDED_S, "in the mesh")
        host.check()
        if VERDICT in host.summary:
            # Until somebody asks, or the files change, that stays.
            host.ask("reload")

        def is_whole() -> bool:
            is_real = name in host.rules_of and name in host.proxies_of
            return is_real and host.is_in_mesh and host.accepted == name

        host.until(is_whole, MENDED_S, f"{name} is in force, whole and accepted")
        host.until(lambda: any(map(host.visible, host.certificates)), MENDED_S, "certificates")
        host.until(self._is_handed_on, MENDED_S, "others have the certificate and were told")
        running = host.groups.running
        host.until(lambda: host.left_alone() == running, MENDED_S, "the unit is left alone")
        host.until(lambda: not host.left_by_istio, MENDED_S, "Istio's rules are taken over")
        host.until(lambda: not any(each.is_open for each in host.callers), 60.0, "answers")
        host.stop()
        assert not host.has_rules
        assert not host.has("joined")
        assert not host.has("joining")

    def _is_handed_on(self) -> bool:
        status = self.host.status
        serial = status["certificate"]["serial"]
        is_told = (
            status["renew_hook"]["state"] == "done" and not status["renew_hook"]["last_error"]
        )
        return self.host.outputs.get(OUTPUT) == serial and is_told


@pytest.fixture(autouse=True)
def _what_is_loaded_stays() -> Iterator[None]:
    """The agent collects garbage with each reading of its files: not all that pytest has."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


Life.TestCase.settings = settings(
    max_examples=soak.times(200, 5000),
    stateful_step_count=soak.times(25, 60),
    suppress_health_check=list(HealthCheck),
    deadline=None,
    print_blob=True,
)


TestLife = Life.TestCase
