"""Read where services are from the catalogue of Consul, and wait for a change of it.

In:  {"access": a `config.services.Access` as an object, "names": of services, or none for all,
     "version": of the catalogue that is known, or 0, "wait_s"}
Out: {"version", "addresses": of every instance, each once}, or
     "error": {"code", "message", "hint"}

A blocking query: Consul answers when another version than this is there, or when the time
is over (developer.hashicorp.com/consul/api-docs/features/blocking). It leaves out what the token
may not see and says so (.../api-docs/features/filtering): where nothing of a service is left that
is an error. The service that Consul's own servers are is left out.
"""

import ipaddress
import json
import sys
from typing import Any

from ..config import services
from ..errors import HostAgentError, RegistryRefused
from ..host import consul
from ..host.answers import catalogue

_SERVERS = "consul"
_SPARE_S = 20.0


def main() -> None:
    """Read one request, write one answer."""
    json.dump(perform(json.load(sys.stdin)), sys.stdout)


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Wait and read; a failure is an answer as well."""
    access = services.Access(**request["access"])
    wait_s = request["wait_s"]
    try:
        credentials = consul.read_credentials(access)
        api = consul.Api(access, credentials, timeout_s=wait_s + wait_s / 16 + _SPARE_S)
        try:
            return read(api, request["names"], request["version"], wait_s)
        finally:
            api.close()
    except HostAgentError as error:
        return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


def read(api: consul.Api, names: list[str], version: int, wait_s: float) -> dict[str, Any]:
    """Of all services, or those with these names; raises RegistryUnavailable, RegistryRefused."""
    query = {"index": str(version), "wait": f"{int(wait_s)}s"} if version else {}
    there = api.get("catalog", "services", **query)
    # It never goes back, but by a restored backup: then it is asked for as if nothing were known.
    found_version = api.index if api.index >= version else 0
    if not isinstance(there, dict):
        raise RegistryRefused(f"Consul at {api.address}: its answer is no list of services")
    wanted = names or [name for name in there if name != _SERVERS]
    if api.is_filtered and not wanted:
        raise _not_shown(api, "any service")
    found: set[str] = set()
    for name in wanted:
        addresses = _addresses(api.get("catalog", "service", name))
        if api.is_filtered and not addresses:
            raise _not_shown(api, f"the instances of {name}")
        found |= addresses
    if len(found) > catalogue.MOST:
        raise RegistryRefused(
            f"Consul at {api.address}: services at more than {catalogue.MOST} addresses",
            hint="ISTIO_SERVICE_CIDR takes networks",
        )
    return {"version": found_version, "addresses": sorted(found)}


def _not_shown(api: consul.Api, what: str) -> RegistryRefused:
    """What a token may not see is no service that is gone."""
    return RegistryRefused(
        f"Consul at {api.address}: the token does not let us see {what}",
        hint="it needs service:read of each and node:read (CONSUL_HTTP_TOKEN)",
    )


def _addresses(instances: Any) -> set[str]:
    """Of the service, or else of its node; names of hosts are none."""
    found = set()
    for each in instances or ():
        text = each.get("ServiceAddress") or each.get("Address") or ""
        try:
            found.add(str(ipaddress.ip_address(text)))
        except ValueError:
            continue
    return found


if __name__ == "__main__":
    main()
