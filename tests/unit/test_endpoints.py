"""Endpoints as a table: nothing of others is lost, nothing is there twice."""

from typing import Any

from istio_hostagent.cluster import endpoints
from istio_hostagent.config.services import Port

HTTP = {"name": "http", "port": 80, "protocol": "TCP"}
GRPC = {"name": "grpc", "port": 90, "protocol": "TCP"}


def subset(ports: list[Any], *addresses: str, late: tuple[str, ...] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {"ports": ports}
    found |= {"addresses": [{"ip": each} for each in addresses]} if addresses else {}
    found |= {"notReadyAddresses": [{"ip": each} for each in late]} if late else {}
    return found


def add(item: dict[str, Any], address: str, *ports: Port) -> tuple[bool, dict[str, Any]]:
    table = endpoints.read(item)
    is_other = endpoints.add(table, address, ports)
    return is_other, endpoints.write(item, table)


def remove(item: dict[str, Any], address: str, *numbers: int) -> tuple[bool, dict[str, Any]]:
    table = endpoints.read(item)
    is_other = endpoints.remove(table, address, frozenset(numbers))
    return is_other, endpoints.write(item, table)


def test_an_address_joins_those_with_the_same_ports() -> None:
    item = {"subsets": [subset([HTTP], "10.0.0.1", late=("10.0.0.9",))]}
    assert add(item, "10.0.0.2", Port("other", 80)) == (
        True,
        {"subsets": [subset([HTTP], "10.0.0.1", "10.0.0.2", late=("10.0.0.9",))]},
    )


def test_what_is_there_is_not_there_twice() -> None:
    item = {"subsets": [subset([HTTP, GRPC], "10.0.0.1")]}
    assert add(item, "10.0.0.1", Port("http", 80)) == (False, item)
    doubled = {"subsets": [*item["subsets"], *item["subsets"]]}
    assert add(doubled, "10.0.0.1", Port("http", 80))[1] == item


def test_what_somebody_else_holds_for_not_ready_stays_so_but_for_the_port_that_is_registered() -> (
    None
):
    item = {"subsets": [subset([HTTP, GRPC], late=("10.0.0.1",))]}
    assert add(item, "10.0.0.1", Port("http", 80)) == (
        True,
        {"subsets": [subset([GRPC], late=("10.0.0.1",)), subset([HTTP], "10.0.0.1")]},
    )


def test_a_port_or_an_address_goes_and_the_rest_stays() -> None:
    item = {"subsets": [subset([HTTP, GRPC], "10.0.0.1", "10.0.0.2")]}
    assert remove(item, "10.0.0.1", 80) == (
        True,
        {"subsets": [subset([GRPC], "10.0.0.1"), subset([HTTP, GRPC], "10.0.0.2")]},
    )
    assert remove(item, "10.0.0.1") == (True, {"subsets": [subset([HTTP, GRPC], "10.0.0.2")]})
    for address, numbers in (("10.0.0.3", ()), ("10.0.0.1", (81,))):
        assert remove(item, address, *numbers)[0] is False
    assert remove({"subsets": [subset([HTTP], late=("10.0.0.1",))]}, "10.0.0.1") == (
        True,
        {"subsets": []},
    )
