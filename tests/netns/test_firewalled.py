"""The whole agent behind a firewall of the host's own, which it may mend (FIREWALL=open)."""

import pytest

from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, configure
from tests.netns.test_arrivals import strict

FIREWALL = strict("tcp dport { 22, 8080 } accept")
OPENED = "tcp dport 15006 ct original proto-dst 8080 jump istio-hostagent"


def load(host: Host) -> None:
    host.namespace.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{FIREWALL}", check=True)


def listing(host: Host) -> str:
    return host.namespace.run(["nft", "list", "ruleset"], check=True).stdout


@pytest.mark.envoy
def test_a_firewall_is_opened_and_opened_again_and_closed_by_who_leaves(
    make_host: MakeHost, envoy: str
) -> None:
    host = make_host(envoy=envoy)
    load(host)
    before = listing(host)
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_FIREWALL="open")
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    assert OPENED in listing(host)
    assert host.status()["redirection"]["opened"] == ["chain inet filter input"]
    # Everything goes, ours as well where nobody keeps them; and all of it comes back.
    for _ in range(3):
        load(host)
        eventually(lambda: OPENED in listing(host), "it is open again")
        host.verb("wait", "--timeout", "60")
        assert host.verb("verify").returncode == 0
    # One that has been killed knows its own.
    host.kill()
    host.start()
    host.verb("wait", "--timeout", "60")
    assert listing(host).count(OPENED) == 1
    assert host.stop() == 0
    assert listing(host) == before
