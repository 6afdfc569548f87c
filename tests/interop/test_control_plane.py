"""A host whose control plane goes away serves on, and says so until it is there again.

How long it took is printed, not judged.
"""

import os
import signal
import time

from tests.lab.host import Host
from tests.lab.waiting import eventually

from . import istiod as istiods
from .conftest import is_answered
from .istiod import Istiod

# Two rounds of questions after pilot-agent has given up its connection, which takes it 45 s where
# nothing answers any more; Envoy tries again after 30 s at the latest.
SAID_S = 120
SAID = "; no connection to the control plane since 20"


def wait_for(host: Host, state: str) -> None:
    begin = time.monotonic()
    eventually(lambda: host.status()["control_plane"]["state"] == state, state, within_s=SAID_S)
    print(f"{state} after {time.monotonic() - begin:.1f} s")


def test_a_control_plane_that_is_killed_is_said_to_be_away_until_it_is_back(
    joined: Host, istiod: Istiod
) -> None:
    wait_for(joined, "connected")
    before = joined.status()
    assert before["control_plane"]["away_since"] is None
    killed_at = time.time()
    istiod.stop()
    wait_for(joined, "away")
    report = joined.status()
    eventually(lambda: bool(joined.status()["in_mesh"]), "in the mesh")
    assert report["in_control"]
    assert killed_at - 1 <= report["control_plane"]["away_since"] <= time.time()
    assert report["summary"].startswith(before["summary"] + SAID)
    assert is_answered(istiod)
    assert "away since 20" in joined.verb("status", is_checked=False).stdout

    istiod.start()
    wait_for(joined, "connected")
    after = joined.status()
    assert after["summary"] == before["summary"]
    assert after["control_plane"]["away_since"] is None
    assert after["proxy"]["pid"] == before["proxy"]["pid"]


def test_one_that_cannot_be_reached_is_away_although_pilot_agent_keeps_trying(
    joined: Host, istiod: Istiod
) -> None:
    wait_for(joined, "connected")
    before = joined.status()["summary"]
    for command in (
        ["add", "table", "ip", "broken"],
        ["add", "chain", "ip", "broken", "out", "{ type filter hook output priority 0; }"],
        ["add", "rule", "ip", "broken", "out", "tcp", "dport", str(istiods.PORT), "drop"],
    ):
        joined.namespace.run(["nft", *command])
    wait_for(joined, "away")
    eventually(lambda: bool(joined.status()["in_mesh"]), "in the mesh")
    assert is_answered(istiod)
    joined.namespace.run(["nft", "delete", "table", "ip", "broken"])
    wait_for(joined, "connected")
    assert joined.status()["summary"] == before


def test_a_proxy_that_waits_for_its_first_configuration_is_said_to_lack_a_control_plane(
    joined: Host, istiod: Istiod
) -> None:
    istiod.stop()
    os.kill(joined.status()["proxy"]["pid"], signal.SIGKILL)
    wait_for(joined, "away")
    report = joined.status()
    assert not report["in_mesh"]
    assert report["summary"].startswith("degraded: ")
    assert SAID in report["summary"]
    istiod.start()
    joined.verb("wait", "--timeout", "60")
