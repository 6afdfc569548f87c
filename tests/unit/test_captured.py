"""What is captured, in the words of `status`."""

import ipaddress

from istio_hostagent.config import captured, model

NETWORKS = [ipaddress.ip_network(f"10.{number}.0.0/16") for number in range(10_000 // 50)]


def describe(**fields: object) -> dict[str, str]:
    return captured.describe(model.Redirection()._replace(**fields))  # type: ignore[arg-type]


def test_nothing_is_said_of_what_is_not_captured() -> None:
    assert captured.describe(None) == {"inbound": "", "outbound": "", "mode": ""}
    assert describe() == {"inbound": "", "outbound": "", "mode": "REDIRECT"}
    assert describe(is_managed=False, inbound=model.PortSet(is_all=True))["mode"] == ""


def test_ports_and_networks_are_named_and_what_is_left_alone() -> None:
    ports = model.PortSet(ranges=((80, 80), (8000, 8010)))
    found = describe(
        inbound=ports,
        inbound_exclude=model.PortSet(ranges=((8001, 8001),)),
        outbound=model.CidrSet.of([ipaddress.ip_network("10.0.0.0/8")]),
        outbound_ports=model.PortSet(ranges=((443, 443),)),
        outbound_exclude=model.CidrSet.of([ipaddress.ip_network("10.1.0.0/16")]),
    )
    assert found["inbound"] == "ports 80, 8000-8010 to 15006 (but port 8001)"
    assert found["outbound"] == "10.0.0.0/8 and port 443 to 15001 (but 10.1.0.0/16)"


def test_of_many_networks_the_number_is_said() -> None:
    found = describe(outbound=model.CidrSet.of(NETWORKS))["outbound"]
    assert found.endswith("10.3.0.0/16 and 196 more to 15001")


def test_all_transparent_and_names() -> None:
    found = describe(
        inbound=model.PortSet(is_all=True),
        outbound=model.CidrSet(is_all=True),
        transparent=model.Transparent(),
        dns=model.Dns(is_captured=True),
    )
    assert found["mode"] == "TPROXY"
    assert found["inbound"] == "all ports to 15006"
    queries = "queries for names at the servers of this host to 15053"
    assert found["outbound"] == f"all addresses to 15001; {queries}"
