"""What every packet filter promises to the agent: the one in memory and the real one alike."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import pytest

from istio_hostagent.config.model import Redirection
from istio_hostagent.errors import ApplyRejected, NotPermitted
from istio_hostagent.host import nftables, ports
from istio_hostagent.redirect import drift, expressions, model, plan, policy
from tests.fakes.kernel import FakeKernel, FakeNamespace
from tests.lab import layers, netns
from tests.unit.samples import ALL, FACTS, STANDARD

DESIRED = policy.build_ruleset(STANDARD, FACTS)
OTHER = policy.build_ruleset(ALL, FACTS)


class Kernel(ports.Kernel, Protocol):
    """One that can be given up."""

    def close(self) -> None: ...


class Host(Protocol):
    """Makes packet filters of one network namespace, and lets others act on it."""

    def kernel(self, *, is_owner: bool) -> Kernel: ...

    def flush(self) -> None: ...


def bring(kernel: ports.Kernel, desired: model.Ruleset) -> model.Plan:
    planned = plan.make_plan(desired, kernel.observe(), owned=kernel.is_owner)
    kernel.apply(planned)
    return planned


def content(kernel: ports.Kernel) -> model.Observed:
    """What is there, whatever the generation."""
    return kernel.observe()._replace(generation=0)


class KernelContract:
    def test_nothing_is_there_at_first(self, host: Host) -> None:
        assert content(host.kernel(is_owner=False)) == model.Observed()

    def test_observe_returns_what_was_applied(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        bring(kernel, DESIRED)
        tables = [expressions.compile_table(t, model.Owner.NOBODY) for t in DESIRED.tables]
        assert content(kernel) == model.Observed(
            tuple(sorted(tables, key=lambda table: table.name)), DESIRED.loopback_addresses
        )

    def test_applying_twice_changes_nothing(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        assert bring(kernel, DESIRED)
        assert not bring(kernel, DESIRED)

    def test_one_set_of_rules_follows_another(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        for desired in (DESIRED, OTHER, DESIRED):
            bring(kernel, desired)
            assert drift.find_drift(desired, kernel.observe()) == ()

    def test_nothing_wanted_leaves_nothing(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        bring(kernel, DESIRED)
        bring(kernel, model.Ruleset())
        assert content(kernel) == model.Observed()

    def test_a_flush_of_others_takes_what_nobody_owns(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        bring(kernel, DESIRED)
        host.flush()
        assert kernel.observe().tables == ()

    def test_a_flush_of_others_does_not_take_what_we_own(self, host: Host) -> None:
        kernel = host.kernel(is_owner=True)
        bring(kernel, DESIRED)
        host.flush()
        (left,) = kernel.observe().tables
        assert (left.name, left.owner) == (model.MAIN_TABLE, model.Owner.WE)

    def test_what_is_owned_ends_with_its_socket_and_the_rest_stays(self, host: Host) -> None:
        kernel = host.kernel(is_owner=True)
        bring(kernel, DESIRED)
        kernel.close()
        left = host.kernel(is_owner=False).observe()
        assert [(table.name, table.owner) for table in left.tables] == [
            (model.GUARD_TABLE, model.Owner.NOBODY)
        ]

    def test_what_another_socket_owns_is_seen_and_cannot_be_changed(self, host: Host) -> None:
        bring(host.kernel(is_owner=True), DESIRED)
        other = host.kernel(is_owner=False)
        (owner,) = (t.owner for t in other.observe().tables if t.name == model.MAIN_TABLE)
        assert owner is model.Owner.OTHER
        with pytest.raises(NotPermitted):
            bring(other, OTHER)
        assert drift.find_drift(DESIRED, other.observe()) == ()

    def test_addresses_that_are_asked_for_are_those_of_the_rules(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        asked = (*DESIRED.loopback_addresses, "::7/128")
        assert kernel.observe_addresses(asked) == ()
        bring(kernel, DESIRED)
        assert kernel.observe_addresses(asked) == DESIRED.loopback_addresses

    def test_an_empty_plan_is_no_work(self, host: Host) -> None:
        kernel = host.kernel(is_owner=False)
        bring(kernel, DESIRED)
        before = kernel.observe()
        kernel.apply(model.Plan())
        assert kernel.observe() == before


class FakeHost:
    def __init__(self) -> None:
        self._space = FakeNamespace()

    def kernel(self, *, is_owner: bool) -> Kernel:
        return self._space.kernel(is_owner=is_owner)

    def flush(self) -> None:
        self._space.flush()


class Inside:
    """A real packet filter, each call made from within the namespace."""

    def __init__(self, space: netns.Namespace, *, is_owner: bool) -> None:
        self._space = space
        self.kernel = space.inside(lambda: nftables.NftKernel(is_owner=is_owner))

    @property
    def is_owner(self) -> bool:
        return self.kernel.is_owner

    def observe(self) -> model.Observed:
        return self._space.inside(self.kernel.observe)

    def apply(self, planned: model.Plan) -> None:
        self._space.inside(lambda: self.kernel.apply(planned))

    def fileno(self) -> int:
        return self.kernel.fileno()

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        return self._space.inside(lambda: self.kernel.observe_addresses(addresses))

    def observe_routing(self) -> tuple[model.Routing, ...]:
        return self._space.inside(self.kernel.observe_routing)

    def close(self) -> None:
        self.kernel.close()


class RealHost:
    def __init__(self, space: netns.Namespace) -> None:
        self._space = space
        self.made: list[Inside] = []

    def kernel(self, *, is_owner: bool) -> Kernel:
        self.made.append(Inside(self._space, is_owner=is_owner))
        return self.made[-1]

    def flush(self) -> None:
        self._space.run(["nft", "flush", "ruleset"], check=True)


class TestFakeKernel(KernelContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()


@pytest.mark.netns
class TestNftKernel(KernelContract):
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        layers.require_namespaces()
        with netns.Namespace("kernel") as space:
            made = RealHost(space)
            yield made
            for each in made.made:
                each.close()


@pytest.mark.parametrize(
    "error",
    [
        lambda: ApplyRejected("no", step="create table", errno=22),
        lambda: NotPermitted("no"),
    ],
    ids=["rejected", "not-permitted"],
)
def test_a_refusal_of_the_fake_changes_nothing(
    error: Callable[[], ApplyRejected | NotPermitted],
) -> None:
    kernel = FakeKernel()
    bring(kernel, policy.build_ruleset(Redirection(), FACTS))
    before = kernel.observe()
    kernel.space.refusals.append(error())
    with pytest.raises((ApplyRejected, NotPermitted)):
        bring(kernel, DESIRED)
    assert kernel.observe() == before
    bring(kernel, DESIRED)
    assert drift.find_drift(DESIRED, kernel.observe()) == ()
