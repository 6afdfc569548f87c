"""Rules of legacy tables come and go without any event: their tables show it."""

import shutil
from pathlib import Path

import pytest

from istio_hostagent.host import legacyrules
from tests.netns.rig import Rig

pytestmark = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None, reason="needs iptables-legacy"
)


@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy"])
def test_a_rule_that_comes_and_goes_is_seen(rig: Rig, program: str) -> None:
    rule = ["OUTPUT", "-p", "tcp", "--dport", "8443", "-j", "ACCEPT"]

    def change(how: str) -> None:
        rig.host.run([program, "-t", "raw", how, *rule], check=True)

    change("-A")
    before = rig.host.inside(legacyrules.observe)
    assert before == rig.host.inside(legacyrules.observe)
    assert all(shape for _, _, shape in before)
    change("-A")
    more = rig.host.inside(legacyrules.observe)
    assert more != before
    change("-D")
    assert rig.host.inside(legacyrules.observe) == before
    change("-D")


def test_looking_makes_no_table(rig: Rig) -> None:
    def names() -> str:
        return "".join(
            Path(f"/proc/thread-self/net/{x}_tables_names").read_text() for x in ("ip", "ip6")
        )

    before = rig.host.inside(names)
    rig.host.inside(legacyrules.observe)
    assert rig.host.inside(names) == before
