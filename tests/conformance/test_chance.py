"""Configurations by chance: native rules, legacy ones and the model of both agree on every packet.

Three ways to the same answer, each with code of its own behind the policy; what `verify` expects
comes from a fourth. `make soak` tries many.
"""

from collections.abc import Callable

import pytest

from tests.conformance import chance, model, table, world
from tests.lab import soak

FIRST, COUNT = 1000, soak.times(3, 60)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_both_back_ends_and_the_model_agree(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    configuration = chance.make(seed)
    native = table.observe_one(configuration, table.ours)
    assert native.answers, (configuration.keys, native.refusal)
    legacy = table.observe_one(configuration, table.in_legacy_tables)
    predicted = table.predict_one(configuration)
    assert predicted.answers and legacy.answers, (predicted.refusal, legacy.refusal)
    rows = zip(
        configuration.packets, native.answers, legacy.answers, predicted.answers, strict=True
    )
    wrong = [
        f"{packet}: native {seen}, legacy {other}, model {said}"
        for packet, seen, other, said in rows
        if not seen == other == said
    ]
    assert not wrong, (configuration.keys, *wrong)
    met = {*native.answers} - {model.APPLICATION}
    record_property(soak.FIGURE, f"{len(configuration.packets)} packets, to {', '.join(met)}")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_each_configuration_is_proven_after_any_other(seed: int) -> None:
    """Rules are changed into others, in both back ends by turns, and go without a trace."""
    first = chance.make(seed)
    with world.make(first) as made:
        before = made.host.run(["nft", "list", "ruleset"]).stdout
        for number in range(4):
            keys = dict(chance.make(seed + 1000 * number).keys)
            made.write(keys)
            own = "ISTIO_HOSTAGENT_BACKEND=legacy\n" if (seed + number) % 3 == 0 else ""
            done = made.apply(own)
            assert done.returncode == 0, (keys, own, done.stderr)
            assert "nothing to do" in made.apply(own).stdout, (keys, own)
            assert made.verb("plan").stdout == "", (keys, own)
            verified = made.verb("verify")
            assert verified.returncode == 0, (keys, own, verified.stdout)
        assert made.verb("clean").returncode == 0
        assert made.host.run(["nft", "list", "ruleset"]).stdout == before
        assert "ISTIO" not in made.host.run(["iptables-legacy-save"]).stdout
