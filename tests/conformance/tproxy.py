"""TPROXY: the proxy sees who called, and answers come back to it."""

from tests.conformance.model import (
    ALPHA,
    APP,
    APPLICATION,
    DNS,
    DROPPED,
    GUEST,
    INBOUND,
    INVALID_TCP,
    LOCALHOST,
    MESH,
    MESH_CIDR,
    OTHER,
    OTHER_PROXY,
    OUTBOUND,
    OUTSIDE,
    OWN,
    OWN_SECOND,
    PASSTHROUGH,
    PROXY,
    PROXY_GID,
    RESOLVER,
    ROOT,
    Configuration,
)
from tests.conformance.packets import both, guest, inbound, invalid, tcp, udp

FEATURE = "tproxy"
TPROXY = {
    "ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY",
    "ISTIO_META_INTERCEPTION_MODE": "TPROXY",
}
MARK = 1337
AS_BEFORE = (
    *tcp(PROXY, OWN, 8080, INBOUND),
    *tcp(PROXY_GID, OWN, 8080, INBOUND),
    *tcp(PROXY, LOCALHOST, 8080, APPLICATION),
    *tcp(PROXY, OWN, 8080, APPLICATION, source=PASSTHROUGH),
    *tcp(APP, OWN, 8080, APPLICATION),
    *tcp(APP, LOCALHOST, 8080, APPLICATION),
    *tcp(PROXY, MESH, 80, APPLICATION),
    *tcp(APP, MESH, 80, OUTBOUND),
)

CONFIGURATIONS = (
    Configuration(
        "tproxy, everything",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_SERVICE_CIDR": "*",
            "ISTIO_INBOUND_PORTS": "*",
            "ISTIO_LOCAL_EXCLUDE_PORTS": "9090",
        },
        (
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN_SECOND, 8080, INBOUND),
            *inbound(OWN, 9090, APPLICATION),
            *inbound(OWN, 22, APPLICATION),
            *inbound(OWN, 15008, APPLICATION),
            *inbound(OWN, 15021, APPLICATION),
            *inbound(OWN, 8080, APPLICATION, "udp"),
            *inbound(GUEST, 80, APPLICATION),
            *guest(MESH, 80, APPLICATION),
            *AS_BEFORE,
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
            *tcp(ROOT, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
            *inbound(OWN, 8080, INBOUND),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, lists",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_SERVICE_CIDR": MESH_CIDR,
            "ISTIO_INBOUND_PORTS": "8080,9090,22",
            "ISTIO_LOCAL_EXCLUDE_PORTS": "9090",
        },
        (
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN, 22, INBOUND),
            *inbound(OWN, 9090, APPLICATION),
            *inbound(OWN, 8081, APPLICATION),
            *AS_BEFORE,
            *tcp(APP, OTHER, 80, APPLICATION),
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
            *tcp(PROXY, OWN, 8081, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, nothing",
        FEATURE,
        TPROXY,
        (
            *inbound(OWN, 8080, APPLICATION),
            *tcp(APP, MESH, 80, APPLICATION),
            *tcp(APP, OWN, 8080, APPLICATION),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, another mark and table",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_INBOUND_PORTS": "*",
            "ISTIO_INBOUND_TPROXY_MARK": "1400",
            "ISTIO_INBOUND_TPROXY_ROUTE_TABLE": "140",
        },
        (
            *inbound(OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=1400, is_transparent=True),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, by one key",
        FEATURE,
        {"ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY", "ISTIO_INBOUND_PORTS": "*"},
        (
            *inbound(OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, strict reverse path filter",
        FEATURE,
        {**TPROXY, "ISTIO_INBOUND_PORTS": "*"},
        (
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN_SECOND, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
        ),
        is_tproxy=True,
        sysctls={
            f"net.ipv4.conf.{name}.rp_filter": "1" for name in ("all", "default", "lo", "eth0")
        },
    ),
    Configuration(
        "tproxy, an interface excluded",
        "tproxy",
        {
            **TPROXY,
            "ISTIO_INBOUND_PORTS": "*",
            "ISTIO_EXCLUDE_INTERFACES": "eth1",
        },
        (*inbound(OWN, 8080, INBOUND), *inbound(OWN_SECOND, 8080, APPLICATION)),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, invalid dropped",
        FEATURE,
        {**TPROXY, "ISTIO_INBOUND_PORTS": "*", "DROP_INVALID": "true"},
        (
            *inbound(OWN, 8080, INBOUND),
            *invalid(INVALID_TCP, DROPPED),
            *tcp(PROXY, OWN, 8080, APPLICATION, source=OUTSIDE, mark=MARK, is_transparent=True),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, another proxy",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_SERVICE_CIDR": "*",
            "ISTIO_INBOUND_PORTS": "*",
            "PROXY_UID": "61340",
            "PROXY_GID": "61341",
        },
        (
            *inbound(OWN, 8080, INBOUND),
            *tcp(OTHER_PROXY, OWN, 8080, INBOUND),
            *tcp(OTHER_PROXY, OTHER, 80, APPLICATION),
            *tcp(PROXY, OTHER, 80, OUTBOUND),
        ),
        proxy=OTHER_PROXY,
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, groups",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_SERVICE_CIDR": "*",
            "ISTIO_INBOUND_PORTS": "8080",
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha",
        },
        (
            *inbound(OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
            *tcp(APP, OWN, 8080, APPLICATION),
        ),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, capture port changed",
        FEATURE,
        {**TPROXY, "ISTIO_INBOUND_PORTS": "8081", "INBOUND_CAPTURE_PORT": "16006"},
        (
            *inbound(OWN, 8081, INBOUND),
            *inbound(OWN, 8083, APPLICATION),
            *tcp(PROXY, OWN, 8081, INBOUND),
        ),
        inbound_port=16006,
        is_tproxy=True,
    ),
    Configuration(
        "tproxy, guests",
        FEATURE,
        {
            **TPROXY,
            "ISTIO_SERVICE_CIDR": "*",
            "ISTIO_INBOUND_PORTS": "*",
            "KUBE_VIRT_INTERFACES": "virbr0",
        },
        (*guest(MESH, 80, OUTBOUND), *guest(OWN, 8080, OUTBOUND), *inbound(OWN, 8080, INBOUND)),
        is_tproxy=True,
    ),
    Configuration(
        "tproxy and names",
        FEATURE,
        {**TPROXY, "ISTIO_INBOUND_PORTS": "*", "ISTIO_META_DNS_CAPTURE": "true"},
        (
            *inbound(OWN, 8080, INBOUND),
            *both(APP, RESOLVER, 53, DNS),
            *both(PROXY, RESOLVER, 53, APPLICATION),
            *udp(APP, OTHER, 80, APPLICATION),
        ),
        is_tproxy=True,
    ),
)
