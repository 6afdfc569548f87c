"""A host in memory on which nothing is redirected: what has to be so before it is in the mesh."""

import pytest

from istio_hostagent.supervise import specs
from tests.agent.host import MemoryHost
from tests.agent.machine import Bug, Loads
from tests.agent.texts import CLUSTER

NONE = (
    b"CA_ADDR=10.78.0.1:15012\nISTIO_HOSTAGENT_REDIRECT=none\n"
    b"ISTIO_HOSTAGENT_UPSTREAMS=8001=10.0.0.7:80\n"
)


class DirectHost(MemoryHost):
    """One whose proxy may start without rules that packets have shown, if there are none at all."""

    def on_spawn(self, spec: specs.ProcessSpec) -> None:
        is_direct = spec.listens == (8001,)
        if is_direct and self.has_rules:
            raise Bug("a proxy to which nothing is redirected beside rules")
        if not is_direct:
            super().on_spawn(spec)

    def on_write(self, name: str) -> None:
        if self.has_rules:
            super().on_write(name)


@pytest.fixture
def host() -> MemoryHost:
    made = DirectHost()
    made.write(CLUSTER, NONE)
    return made


def test_it_is_in_the_mesh_once_the_proxy_shows_what_is_held(host: MemoryHost) -> None:
    host.loads = Loads.MUTE
    host.start()
    host.run(5.0)
    assert not host.is_in_mesh
    host.until(lambda: "it is mute" in host.summary, 60.0, "why it is not in the mesh")
    assert not host.is_in_mesh
    host.loads = Loads.ALWAYS
    host.until(lambda: host.is_in_mesh, 120.0, "it joins by itself")
    assert host.status["served_certificate"]["state"] == "held"
    assert host.status["redirection"]["state"] == "none"
    assert host.status["capture_ports"]["ports"] == []
    assert "applications speak to the proxy by themselves" in host.summary


def test_a_renewal_is_no_reason_to_leave(host: MemoryHost) -> None:
    host.start()
    host.until(lambda: host.is_in_mesh, 30.0, "it joins")
    assert host.answer("renew")["ok"]
    assert host.is_in_mesh
    host.until(
        lambda: host.status["served_certificate"]["state"] == "held", 5.0, "the new one is shown"
    )
