"""Register a service, of this machine or of another one, with Consul or with Kubernetes.

Names, ports and flags are those of `istioctl register`: a port without a name is called http (80,
8080), https (443), mysql (3306), or by its number. With --namespace or --kubeconfig it becomes
objects of a cluster: a Service with Endpoints, or with --entry a ServiceEntry and a WorkloadEntry.
Otherwise it is registered at the agent of Consul, which is found as its own tools find it
(CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT and the others). To say the same twice changes
nothing.

Exit status: 0 when it is there, 64 for a mistake, 75 if the registry does not answer, 77 if it
refuses.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..config import consulaccess, registering, services
from ..errors import WrongUsage
from ..host import libraries, registries
from ..host.answers import registration
from .options import Option, Values

_Value = TypeVar("_Value")

# With one of the first two the registry is a cluster.
CLUSTER = (
    Option("namespace", "of the cluster, in which the service is", "", "NAMESPACE", short="n"),
    Option("kubeconfig", "as kubectl's; else KUBECONFIG counts", "", "FILE", short="c"),
    Option("entry", "in a cluster: as ServiceEntry and WorkloadEntry"),
)
OPTIONS = (
    Option("name", "of the service", "", "NAME", is_word=True),
    Option("address", "where the service is", "", "ADDRESS", is_word=True),
    Option("ports", "http:7000 or 3306", (), "PORT", is_word=True, is_list=True),
    Option("labels", "KEY=VALUE between commas", "", "LABELS", short="l"),
    Option("annotations", "KEY=VALUE between commas", "", "ANNOTATIONS", short="a"),
    Option("serviceaccount", "the account of its certificate", "", "ACCOUNT", short="s"),
    *CLUSTER,
    Option("check", "how Consul sees whether it is well: tcp, or a URL", "", "CHECK"),
    Option("json", "for programs"),
)
_SAID = {
    "registered": "registered",
    "changed": "changed",
    "unchanged": "registered already",
    "others": "registered already by somebody else, and left as it is",
}
# Of keys of meta (hashicorp/consul agent/structs/structs.go, validateMetaPair).
_META = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_MAX_KEY, _MAX_VALUE = 128, 512


def execute(values: Values) -> int:
    """Register, and say what became of each port."""
    if is_cluster(values):
        return int(load_cluster().register(values))
    access = find_access()
    service = services.Registration(
        read(registering.parse_name, values["name"]),
        read(registering.parse_address, values["address"]),
        read(registering.parse_ports, values["ports"]),
        read(registering.parse_pairs, values["labels"]),
        read(parse_meta, values["annotations"]),
        values["serviceaccount"],
        read(registering.parse_check, values["check"]),
    )
    instances = registries.register(access, service)
    if values["json"]:
        print(render_json(instances))
    else:
        for port, each in zip(service.ports, instances, strict=True):
            place = f"{service.name} at {service.address}, port {port.number} ({port.name})"
            print(f"{place}: {_SAID[each.outcome]} (ID {each.id})")
    return 0


def load_cluster() -> Any:
    """What speaks to an API server; it needs libraries, and only then they are looked for."""
    if sys.flags.no_site:
        libraries.add()
    return importlib.import_module(".registercluster", __package__)


def is_cluster(values: Values) -> bool:
    """Whether the registry is a cluster; raises WrongUsage for what only one has."""
    is_one = bool(values["namespace"] or values["kubeconfig"])
    if values["entry"] and not is_one:
        raise WrongUsage("--entry is for a cluster: --namespace or --kubeconfig names it")
    if is_one and values.get("check"):
        raise WrongUsage("--check is for Consul: nobody in a cluster would look")
    return is_one


def read(parse: Callable[..., _Value], text: str | Sequence[str]) -> _Value:
    """A part of the command line; raises WrongUsage."""
    try:
        return parse(text)
    except ValueError as error:
        raise WrongUsage(str(error)) from error


def find_access() -> services.Access:
    """How Consul is reached; raises WrongUsage."""
    return read(lambda _: consulaccess.of_environment(os.environ), "")


def parse_meta(text: str) -> tuple[tuple[str, str], ...]:
    """Annotations as Consul's meta takes them; raises ValueError."""
    pairs = registering.parse_pairs(text)
    for key, value in pairs:
        if not set(key) <= _META or len(key) > _MAX_KEY or len(value) > _MAX_VALUE:
            raise ValueError(
                f"annotation {key!r}: Consul takes keys of at most {_MAX_KEY} letters, digits, '-'"
                f" and '_', and values of at most {_MAX_VALUE} characters"
            )
    return pairs


def render_json(instances: Sequence[registration.Instance]) -> str:
    """For programs."""
    found = {"version": 1, "instances": [each._asdict() for each in instances]}
    return json.dumps(found, indent=1)
