"""The verbs `register` and `deregister` where the registry is a cluster."""

import json
import os
import re
from collections.abc import Sequence

from ..cluster import access, client, registration
from ..config import fields, registering, services
from ..errors import WrongUsage
from . import register as words
from .options import Values

_LABEL = re.compile(r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_ACCOUNT = "default"  # as for istioctl register


def register(values: Values) -> int:
    """Register, and say what became of it."""
    name = words.read(parse_name, values["name"])
    service = services.Registration(
        name,
        words.read(parse_address, values["address"]),
        words.read(parse_ports, values["ports"]),
        words.read(parse_labels, values["labels"]),
        words.read(parse_labels, values["annotations"]),
        values["serviceaccount"] or _ACCOUNT,
    )
    with open_client(values) as found:
        form = choose(found, values)
        outcome = registration.patiently(lambda: form.register(service)) or ""
        namespace = values["namespace"] or found.namespace
    if values["json"]:
        print(json.dumps({"version": 1, "instances": [{"id": name, "outcome": outcome}]}))
        return 0
    ports = ", ".join(f"{port.number} ({port.name})" for port in service.ports)
    said = "registered already" if outcome == "unchanged" else outcome
    print(f"{name}.{namespace} at {service.address}, ports {ports}: {said}")
    return 0


def deregister(values: Values) -> int:
    """Deregister, and say what went."""
    number = values["port"]
    service = services.Registration(
        words.read(parse_name, values["name"]),
        words.read(registering.parse_address, values["address"]),
        (services.Port("", words.read(fields.parse_port, str(number))),) if number else (),
    )
    if number and values["entry"]:
        raise WrongUsage("a WorkloadEntry goes as a whole, without --port")
    with open_client(values) as found:
        form = choose(found, values)
        registration.patiently(lambda: form.deregister(service))
    if values["json"]:
        gone = {"id": service.name, "outcome": "deregistered"}
        print(json.dumps({"version": 1, "instances": [gone]}))
    else:
        print(f"deregistered {service.name} at {service.address}")
    return 0


def open_client(values: Values) -> client.Client:
    """The API server that is meant; raises WrongUsage, ConfigInvalid."""
    chosen = access.choose(os.environ, path=values["kubeconfig"])
    return client.Client(chosen, os.environ)


def choose(found: client.Client, values: Values) -> registration.Form:
    """The form in which the service is, or is to be, there."""
    kind = registration.Entries if values["entry"] else registration.Classic
    return kind(found, values["namespace"] or found.namespace or "default")


def parse_name(text: str) -> str:
    """As of Consul's, in lower case and not beginning with a digit (RFC 1035)."""
    name = registering.parse_name(text)
    if name != name.lower() or name[0].isdigit():
        raise ValueError(
            f"{fields.show(text)} is no name of a Service: lower-case letters, digits and '-', a"
            " letter first"
        )
    return name


def parse_ports(texts: Sequence[str]) -> tuple[services.Port, ...]:
    """As for Consul; a cluster takes no name of a port twice."""
    ports = registering.parse_ports(texts)
    names = [port.name.lower() for port in ports]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two ports have the name {twice}")
    return ports


def parse_address(text: str) -> str:
    """As for Consul; a cluster takes no link-local address either."""
    address = registering.parse_address(text)
    if address.startswith("169.254.") or address.lower().startswith("fe80:"):
        raise ValueError(f"{address} is a link-local address, which no other host reaches")
    return address


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """Keys as Kubernetes takes them."""
    pairs = registering.parse_pairs(text)
    for key, _ in pairs:
        if not _LABEL.fullmatch(key):
            raise ValueError(f"{fields.show(key)} is no key of a label or annotation")
    return pairs
