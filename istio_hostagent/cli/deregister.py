"""Take a service at one address out of Consul or Kubernetes.

With --port only that instance, otherwise all at this address, also those that somebody else has
registered. With --namespace or --kubeconfig the registry is a cluster, otherwise the agent of
Consul at which it was registered (CONSUL_HTTP_ADDR and the others). Objects of a cluster that
`register` made go when they are empty.

Exit status: 0 when it is gone, 1 if no such service is registered at this address, 64 for a
mistake, 75 if the registry does not answer, 77 if it refuses.
"""

from ..config import fields, registering, services
from ..host import registries
from . import register
from .options import Option, Values

OPTIONS = (
    Option("name", "of the service", "", "NAME", is_word=True),
    Option("address", "where the service is", "", "ADDRESS", is_word=True),
    Option("port", "only the instance with this port", 0, "PORT"),
    *register.CLUSTER,
    Option("json", "for programs"),
)


def execute(values: Values) -> int:
    """Deregister, and say what went."""
    if register.is_cluster(values):
        return int(register.load_cluster().deregister(values))
    access = register.find_access()
    number = values["port"]
    service = services.Registration(
        register.read(registering.parse_name, values["name"]),
        register.read(registering.parse_address, values["address"]),
        (services.Port("", register.read(fields.parse_port, str(number))),) if number else (),
    )
    instances = registries.deregister(access, service)
    if values["json"]:
        print(register.render_json(instances))
    else:
        print("\n".join(f"deregistered {each.id}" for each in instances))
    return 0
