"""The file kubedns: what is written for a host is what a host takes."""

import ipaddress

import pytest

from istio_hostagent.config import kubedns
from istio_hostagent.errors import ConfigInvalid
from istio_hostagent.expansion import dnsmasq, releases


@pytest.mark.parametrize("port", [0, 30053])
@pytest.mark.parametrize("release", ["0.2.7", "0.7.1", "1.0"])
def test_what_is_written_for_a_host_is_taken_there(release: str, port: int) -> None:
    target = dnsmasq.Target("10.0.0.1", port)
    targets = dict.fromkeys(("pilot", "dns", "mixer", "ca"), target)
    text = dnsmasq.render(releases.parse(release), targets, "istio-system")
    [server, *names] = kubedns.parse(text, "kubedns")
    assert server == ("svc.cluster.local", ipaddress.ip_address("10.0.0.1"), True)
    assert names and not any(entry.is_asked for entry in names)


@pytest.mark.parametrize(
    "line", ["address=/istio-ca/10.0.0.1#53", "server=/a/10.0.0.1#0", "server=/a/10.0.0.1#5x"]
)
def test_another_port_is_an_error_with_its_line(line: str) -> None:
    with pytest.raises(ConfigInvalid, match="kubedns:2: "):
        kubedns.parse(f"# names\n{line}\n", "kubedns")
