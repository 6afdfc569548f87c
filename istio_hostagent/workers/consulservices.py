"""Services at one agent of Consul: put there, taken away, and found in the catalogue.

One instance for each port, as Consul has no service with several. Its ID says what it is, so that
who registers twice, or at the same time as somebody else, doubles nothing. Tags `KEY|VALUE` are
labels to Istio (istio/istio 1.0 pilot/pkg/serviceregistry/consul/conversion.go).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..config import services
from ..errors import NotRegistered, RegistryRefused, RegistryUnavailable
from ..host import consul

CHECK_INTERVAL, CHECK_TIMEOUT = "5s", "3s"
# So long the agent may take to tell the servers of a change.
SEEN_S = 10.0
_PAUSE_S = 0.1
_MARK = "registered-by"
_MARKER = "istio-hostagent"
# The keys of the labels among the tags, which are ours to take away again.
_LABELS = "labels"
_TROUBLE = "istio-hostagent: "
# What stays as somebody else has set it.
_KEPT = ("EnableTagOverride", "TaggedAddresses", "Weights")

Service = Mapping[str, Any]


def register(api: consul.Api, wanted: services.Registration) -> list[dict[str, str]]:
    """Have every port there; says of each its `id` and `outcome`.

    That is `registered`, `changed`, `unchanged`, or `others`: somebody else has registered the
    same address and port under another ID, which stays. Tags and meta that others have added to
    ours stay, labels that we have set before and that are not wanted any more go. Raises
    RegistryUnavailable, RegistryRefused.
    """
    there = _services(api)
    done = []
    for port in wanted.ports:
        own = wanted.find_id(port)
        others = [
            each["ID"]
            for each in _at(there, wanted.name, wanted.address)
            if each.get("Port") == port.number and each["ID"] != own
        ]
        if others and own not in there:
            done.append({"id": others[0], "outcome": "others"})
            continue
        before = there.get(own)
        desired = _describe(wanted, port, own, before)
        if before is not None and _is_same(before, desired):
            done.append({"id": own, "outcome": "unchanged"})
            continue
        # Otherwise checks of others stay, and that of maintenance.
        is_other = before is not None and _checked(before) != _checked(desired)
        query = {"replace-existing-checks": "true"} if is_other else {}
        api.put("agent", "service", "register", body=desired, **query)
        done.append({"id": own, "outcome": "registered" if before is None else "changed"})
    return done


def wait_seen(api: consul.Api, name: str, numbers: set[str]) -> None:
    """Wait until the catalogue has what the agent has; raises RegistryUnavailable.

    Whose token may not see nodes is not shown any. The agent tells the servers by itself, and says
    nothing of a failure but in its log.
    """
    until = time.monotonic() + min(SEEN_S, max(api.left_s, 0.0))
    while True:
        found = api.get("catalog", "service", name)
        seen = {each.get("ServiceID") for each in found or ()}
        if numbers <= seen or api.is_filtered:
            return
        if time.monotonic() >= until:
            raise RegistryUnavailable(
                f"Consul at {api.address} has taken {name}, and its catalogue does not have it",
                hint="its agent tries again by itself: `journalctl -u consul` says what keeps it"
                " from that, such as a token without service:write",
            )
        time.sleep(_PAUSE_S)


def deregister(
    api: consul.Api, name: str, address: str, ports: Iterable[int]
) -> list[dict[str, str]]:
    """Take away every instance at this address, or those with these ports.

    Raises NotRegistered if there is none, and the same as `register`.
    """
    numbers = frozenset(ports)
    found = [
        each
        for each in _at(_services(api), name, address)
        if not numbers or each.get("Port") in numbers
    ]
    if not found:
        raise _not_registered(api, name, address, numbers)
    for each in found:
        remove(api, each["ID"])
    return [{"id": each["ID"], "outcome": "deregistered"} for each in found]


def remove(api: consul.Api, number: str) -> None:
    """Take one instance away by its ID; one that is gone already is no error."""
    try:
        api.put("agent", "service", "deregister", number)
    except RegistryRefused:
        if number in _services(api):
            raise


def withdraw(api: consul.Api, numbers: Iterable[str]) -> list[dict[str, str]]:
    """Take these instances away, by their IDs, as far as they are there."""
    there = _services(api)
    gone = [number for number in numbers if number in there]
    for number in gone:
        remove(api, number)
    return [{"id": number, "outcome": "deregistered"} for number in gone]


def tell_trouble(api: consul.Api, numbers: Iterable[str], trouble: str) -> None:
    """Have instances count as not well, with this reason; an empty one: as well again.

    By Consul's maintenance mode, which needs nobody to repeat it. What somebody else has put into
    it stays there.
    """
    checks = api.get("agent", "checks") or {}
    for number in numbers:
        found = checks.get(f"_service_maintenance:{number}")
        before = str(found.get("Notes")) if found is not None else ""
        after = f"{_TROUBLE}{trouble}" if trouble else ""
        if before == after or (found is not None and not before.startswith(_TROUBLE)):
            continue
        query = {"enable": "true", "reason": after} if after else {"enable": "false"}
        api.put("agent", "service", "maintenance", number, **query)


def _describe(
    wanted: services.Registration, port: services.Port, own: str, before: Service | None
) -> dict[str, Any]:
    tags = [f"{key}|{value}" for key, value in wanted.labels]
    meta = {"protocol": port.protocol, "port-name": port.name, _MARK: _MARKER}
    meta |= {"check": wanted.check} if wanted.check else {}
    meta |= {_LABELS: ",".join(key for key, _ in wanted.labels)} if wanted.labels else {}
    meta |= {"serviceaccount": wanted.account} if wanted.account else {}
    meta |= dict(wanted.annotations)
    kept: dict[str, Any] = {}
    if before is not None:
        known = before.get("Meta") or {}
        labelled = {*str(known.get(_LABELS, "")).split(","), *(key for key, _ in wanted.labels)}
        others = (tag for tag in before.get("Tags") or () if tag.partition("|")[0] not in labelled)
        tags = [*others, *tags]
        kept_meta = {key: known[key] for key in known if key not in ("check", _LABELS)}
        meta = {**kept_meta, **meta}
        kept = {key: before[key] for key in _KEPT if before.get(key)}
    described = {
        "ID": own,
        "Name": wanted.name,
        "Address": wanted.address,
        "Port": port.number,
        "Tags": tags,
        "Meta": meta,
        **kept,
    }
    if wanted.check:
        described["Check"] = _check(wanted, port)
    return described


def _check(wanted: services.Registration, port: services.Port) -> dict[str, str]:
    target = {"HTTP": wanted.check}
    if wanted.check == "tcp":
        host = f"[{wanted.address}]" if ":" in wanted.address else wanted.address
        target = {"TCP": f"{host}:{port.number}"}
    return {
        "Name": f"{wanted.name} as istio-hostagent sees it",
        "Interval": CHECK_INTERVAL,
        "Timeout": CHECK_TIMEOUT,
        **target,
    }


def _checked(service: Service) -> str:
    return str((service.get("Meta") or {}).get("check", ""))


def _is_same(before: Service, desired: Service) -> bool:
    return (
        all(before.get(key) == desired[key] for key in ("Address", "Port"))
        and sorted(before.get("Tags") or ()) == sorted(desired["Tags"])
        and (before.get("Meta") or {}) == desired["Meta"]
    )


def _services(api: consul.Api) -> dict[str, Service]:
    found = api.get("agent", "services")
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise RegistryRefused(f"Consul at {api.address}: its answer is no list of services")
    return found


def _at(services: Mapping[str, Service], name: str, address: str) -> Iterator[Service]:
    """Those of a service that are at this address; one without an address is left alone."""
    for number, each in services.items():
        if each.get("Service") == name and each.get("Address") == address:
            yield {**each, "ID": number}


def _not_registered(
    api: consul.Api, name: str, address: str, numbers: frozenset[int]
) -> NotRegistered:
    at = f"{name} at {address}" + "".join(f", port {number}" for number in sorted(numbers))
    found = api.get("catalog", "service", name) or ()
    nodes = sorted(
        str(each.get("Node"))
        for each in found
        if (each.get("ServiceAddress") or each.get("Address")) == address
        and (not numbers or each.get("ServicePort") in numbers)
    )
    if nodes:
        return NotRegistered(
            f"{at} is not registered at this agent of Consul but at that of {nodes[0]}",
            hint="deregister it there, or with CONSUL_HTTP_ADDR of that agent",
        )
    return NotRegistered(
        f"no {at} is registered", hint="or the token (CONSUL_HTTP_TOKEN) may not read it"
    )
