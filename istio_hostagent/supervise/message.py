"""The few shapes that all parts of an Envoy configuration share.

Not here: any decision about traffic.
"""

from typing import TypeAlias

# One JSON object of an Envoy configuration.
Json: TypeAlias = dict[str, object]


def typed(name: str, kind: str, **fields: object) -> Json:
    """Return an extension entry: its name, and its configuration with its type URL."""
    return {
        "name": name,
        "typed_config": {"@type": f"type.googleapis.com/{kind}", **fields},
    }


def any_address(port: int, has_ipv6: bool) -> Json:
    """Return the address that takes connections to every address of the host."""
    # REDIRECT sends a connection to 127.0.0.1 or ::1 (outbound) or to the address of the interface
    # it came in by (inbound), in its own family.
    if not has_ipv6:
        return {"socket_address": {"address": "0.0.0.0", "port_value": port}}  # noqa: S104
    return {"socket_address": {"address": "::", "port_value": port, "ipv4_compat": True}}
