"""What the classic releases captured, asked for by name."""

from tests.conformance.model import (
    APP,
    APPLICATION,
    EXCLUDED,
    EXCLUDED_CIDR,
    INBOUND,
    LOCALHOST,
    LOOPBACK_9,
    MESH,
    MESH_CIDR,
    OTHER,
    OUTBOUND,
    OWN,
    PROXY,
    PROXY_GID,
    ROOT,
    ROOT_GROUP,
    Configuration,
)
from tests.conformance.packets import inbound, tcp, udp

FEATURE = "generations"
GENERATION = "ISTIO_HOSTAGENT_RULES"
# Everybody's call to an own address goes to the proxy, the proxy's too.
OWN_ADDRESSES = (
    *tcp(APP, OWN, 8080, OUTBOUND),
    *tcp(ROOT, OWN, 8080, OUTBOUND),
    *tcp(PROXY, OWN, 8080, OUTBOUND),
    *tcp(APP, LOOPBACK_9, 8080, OUTBOUND),
    *tcp(APP, LOCALHOST, 8080, APPLICATION),
    *tcp(PROXY, LOCALHOST, 8080, APPLICATION),
)
LEFT_ALONE = (
    *tcp(ROOT, MESH, 80, APPLICATION),
    *tcp(ROOT_GROUP, MESH, 80, APPLICATION),
    *tcp(PROXY, MESH, 80, APPLICATION),
    *tcp(PROXY_GID, MESH, 80, APPLICATION),
    *udp(APP, MESH, 80, APPLICATION),
)
LISTS = {
    "ISTIO_SERVICE_CIDR": MESH_CIDR,
    "ISTIO_SERVICE_EXCLUDE_CIDR": EXCLUDED_CIDR,
    "ISTIO_INBOUND_PORTS": "8080,22",
}

CONFIGURATIONS = (
    Configuration(
        "1.0 with lists",
        FEATURE,
        {**LISTS, GENERATION: "1.0"},
        (
            *tcp(APP, MESH, 80, OUTBOUND),
            *tcp(APP, EXCLUDED, 80, APPLICATION),
            *tcp(APP, OTHER, 80, APPLICATION),
            *LEFT_ALONE,
            *OWN_ADDRESSES,
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN, 22, INBOUND),
            *inbound(OWN, 8081, APPLICATION),
        ),
    ),
    Configuration(
        "1.0 with nothing",
        FEATURE,
        {GENERATION: "1.0"},
        (
            *tcp(APP, MESH, 80, APPLICATION),
            *OWN_ADDRESSES,
            *inbound(OWN, 8080, APPLICATION),
        ),
    ),
    Configuration(
        "1.0 with everything",
        FEATURE,
        {"ISTIO_SERVICE_CIDR": "*", "ISTIO_INBOUND_PORTS": "*", GENERATION: "1.0"},
        (
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(APP, OWN, 22, APPLICATION),
            *tcp(APP, OWN, 15021, APPLICATION),
            *LEFT_ALONE,
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN, 22, APPLICATION),
        ),
    ),
    Configuration(
        "0.8 with lists",
        FEATURE,
        {**LISTS, GENERATION: "0.8"},
        (
            *tcp(APP, MESH, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
            *LEFT_ALONE,
            *OWN_ADDRESSES,
            *inbound(OWN, 8080, OUTBOUND),
            *inbound(OWN, 22, OUTBOUND),
            *inbound(OWN, 8081, APPLICATION),
        ),
    ),
    Configuration(
        "0.8 with nothing",
        FEATURE,
        {GENERATION: "0.8"},
        (*tcp(APP, MESH, 80, APPLICATION), *OWN_ADDRESSES),
    ),
    Configuration(
        "0.7 with lists",
        FEATURE,
        {**LISTS, GENERATION: "0.7"},
        (
            *tcp(APP, MESH, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
            *LEFT_ALONE,
            *OWN_ADDRESSES,
            *inbound(OWN, 8080, OUTBOUND),
            *inbound(OWN, 22, APPLICATION),
            *inbound(OWN, 8081, APPLICATION),
        ),
    ),
    Configuration(
        "0.7 with exclusions",
        FEATURE,
        {**LISTS, GENERATION: "0.7"},
        (*tcp(APP, EXCLUDED, 80, APPLICATION), *tcp(APP, MESH, 80, OUTBOUND)),
    ),
    Configuration(
        "0.7 with nothing",
        FEATURE,
        {GENERATION: "0.7"},
        (
            *tcp(APP, MESH, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *LEFT_ALONE,
            *OWN_ADDRESSES,
            *inbound(OWN, 8080, APPLICATION),
        ),
    ),
    Configuration(
        "the present rules by name",
        FEATURE,
        {**LISTS, GENERATION: "current"},
        (
            *tcp(APP, MESH, 80, OUTBOUND),
            *tcp(ROOT, MESH, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
            *tcp(APP, OWN, 8080, APPLICATION),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
)
