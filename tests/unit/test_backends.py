"""Where rules are kept, and where none are wanted: which back end is asked."""

from typing import Any

import pytest

from istio_hostagent.agent import backends
from istio_hostagent.config.model import BackEnd
from istio_hostagent.errors import NotPermitted
from istio_hostagent.host import norules, ports
from istio_hostagent.redirect import model, policy
from tests.unit.samples import FACTS, STANDARD

NOTHING = model.Ruleset()


def never(*_: object) -> Any:
    raise AssertionError("it is not to be asked")


class Untouched:
    """Rules that nobody may look at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not to be asked")


def make(
    native: ports.PacketRules | None = None, *, has_legacy: bool = False, can_change: bool = True
) -> backends.BackEnds:
    refusal = "" if native is not None else "refused"
    none = norules.NoRules()
    return backends.BackEnds(
        native, refusal, never, lambda: has_legacy, none=none, can_change=can_change
    )


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: make(), id="nf_tables is refused and there are no legacy tables"),
        pytest.param(lambda: make(has_legacy=True, can_change=False), id="no right"),
        pytest.param(lambda: make(Untouched(), can_change=False), id="of another agent"),
    ],
)
def test_where_no_rule_can_be_ours_and_none_is_wanted_nothing_is_touched(made: Any) -> None:
    rules = made()
    rules.choose(BackEnd.NONE)
    found: list[Any] = []
    rules.install(NOTHING, found.append)
    rules.compare(NOTHING, found.append)
    rules.plan(NOTHING, found.append)
    assert [found[0].is_any, found[1], found[2].is_any] == [False, (), False]
    assert (rules.is_owner, rules.has_socket, rules.is_polled) == (False, False, False)
    assert rules.find_native(NOTHING) is None
    assert rules.place == "none: ISTIO_HOSTAGENT_REDIRECT=none"
    assert rules.render_guard(NOTHING).startswith("#")


def test_rules_that_are_wanted_after_all_are_refused_without_the_right() -> None:
    found: list[Any] = []
    norules.NoRules().install(policy.build_ruleset(STANDARD, FACTS), found.append)
    (error,) = found
    assert isinstance(error, NotPermitted)
    assert "CAP_NET_ADMIN" in error.message
