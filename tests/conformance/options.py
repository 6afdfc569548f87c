"""The rest of the options: groups, interfaces, guests, loopback, what is invalid, other users."""

from tests.conformance.model import (
    ALPHA,
    ALPHA_MEMBER,
    APP,
    APPLICATION,
    BETA,
    DELIVERED,
    DNS,
    DROPPED,
    EXCLUDED,
    EXCLUDED_CIDR,
    FAR,
    GUEST,
    INBOUND,
    INVALID_ICMP,
    INVALID_TCP,
    LOCALHOST,
    LOOPBACK_5,
    LOOPBACK_9,
    MESH,
    MESH_CIDR,
    METADATA,
    OTHER,
    OTHER_PROXY,
    OUTBOUND,
    OWN,
    OWN_BRIDGE,
    OWN_SECOND,
    PASSTHROUGH,
    PROXY,
    PROXY_GID,
    PROXY_UID,
    RESOLVER,
    RESOLVER_FAR,
    ROOT,
    ROOT_GROUP,
    SECOND_PROXY,
    STUB,
    Configuration,
    User,
)
from tests.conformance.packets import both, guest, inbound, invalid, tcp, udp

EVERYTHING = {"ISTIO_SERVICE_CIDR": "*", "ISTIO_INBOUND_PORTS": "*"}
MANY_GROUPS = ",".join(str(number) for number in range(61600, 61664))
# Groups make no difference to any of these.
WHATEVER_GROUPS = (
    *tcp(PROXY, OTHER, 80, APPLICATION),
    *tcp(PROXY_GID, OWN, 8080, INBOUND),
    *tcp(ALPHA, OWN, 8080, APPLICATION),
    *udp(ALPHA, OTHER, 80, APPLICATION),
    *inbound(OWN, 8080, INBOUND),
)

GROUPS = (
    Configuration(
        "groups by name",
        "owner-groups",
        {**EVERYTHING, "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha"},
        (
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(User("app in alpha", 61500, 61600), OTHER, 80, OUTBOUND),
            *tcp(ALPHA, METADATA, 80, APPLICATION),
            *tcp(BETA, OTHER, 80, APPLICATION),
            *tcp(APP, OTHER, 80, APPLICATION),
            *tcp(ROOT, OTHER, 80, APPLICATION),
            *tcp(ALPHA_MEMBER, OTHER, 80, APPLICATION),
            *tcp(User("alpha elsewhere", 61600, 61500), OTHER, 80, APPLICATION),
            *WHATEVER_GROUPS,
        ),
    ),
    Configuration(
        "groups by number",
        "owner-groups",
        {
            "ISTIO_SERVICE_CIDR": MESH_CIDR,
            "ISTIO_OUTBOUND_PORTS": "3306",
            "ISTIO_OUTBOUND_OWNER_GROUPS": "61600,61601",
        },
        (
            *tcp(ALPHA, MESH, 80, OUTBOUND),
            *tcp(BETA, MESH, 80, OUTBOUND),
            *tcp(BETA, OTHER, 3306, OUTBOUND),
            *tcp(BETA, OTHER, 80, APPLICATION),
            *tcp(APP, MESH, 80, APPLICATION),
            *tcp(APP, OTHER, 3306, APPLICATION),
        ),
    ),
    Configuration(
        "groups excluded",
        "owner-groups",
        {**EVERYTHING, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "beta,61999"},
        (
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(BETA, OTHER, 80, APPLICATION),
            *tcp(User("number", 61500, 61999), OTHER, 80, APPLICATION),
            *WHATEVER_GROUPS,
        ),
    ),
    Configuration(
        "an excluded group does not count beside a list",
        "owner-groups",
        {
            **EVERYTHING,
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha,beta",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "beta",
        },
        (
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(BETA, OTHER, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
        ),
    ),
    Configuration(
        "every group but one",
        "owner-groups",
        {
            **EVERYTHING,
            "ISTIO_OUTBOUND_OWNER_GROUPS": "*",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "alpha",
        },
        (*tcp(APP, OTHER, 80, OUTBOUND), *tcp(ALPHA, OTHER, 80, APPLICATION)),
    ),
    Configuration(
        "no group",
        "owner-groups",
        {**EVERYTHING, "ISTIO_OUTBOUND_OWNER_GROUPS": ""},
        (
            *tcp(ALPHA, OTHER, 80, APPLICATION),
            *tcp(APP, OTHER, 80, APPLICATION),
            *tcp(ROOT, OTHER, 80, APPLICATION),
            *WHATEVER_GROUPS,
        ),
    ),
    Configuration(
        "64 groups",
        "owner-groups",
        {**EVERYTHING, "ISTIO_OUTBOUND_OWNER_GROUPS": MANY_GROUPS},
        (
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(User("the last", 61500, 61663), OTHER, 80, OUTBOUND),
            *tcp(APP, OTHER, 80, APPLICATION),
        ),
    ),
    Configuration(
        "names of groups, excluded",
        "owner-groups-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "beta",
        },
        (
            *both(ALPHA, RESOLVER, 53, DNS),
            *both(BETA, RESOLVER, 53, APPLICATION),
            *udp(BETA, RESOLVER, 53, APPLICATION, source_port=40011),
            *udp(ALPHA, RESOLVER, 53, DNS, source_port=40011),
            *udp(BETA, RESOLVER, 53, APPLICATION, source_port=40011),
        ),
    ),
    Configuration(
        "names of groups, listed",
        "owner-groups-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha",
        },
        (
            *both(ALPHA, RESOLVER, 53, DNS),
            *both(BETA, RESOLVER, 53, APPLICATION),
            *both(PROXY, RESOLVER, 53, APPLICATION),
        ),
    ),
    Configuration(
        "names of groups, none",
        "owner-groups-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_OUTBOUND_OWNER_GROUPS": "",
        },
        (*both(ALPHA, RESOLVER, 53, APPLICATION), *both(APP, RESOLVER, 53, APPLICATION)),
    ),
)

INTERFACES = (
    Configuration(
        "an interface excluded",
        "interfaces",
        {**EVERYTHING, "ISTIO_EXCLUDE_INTERFACES": "docker9,eth1"},
        (
            *tcp(APP, FAR, 80, APPLICATION),
            *udp(APP, FAR, 80, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *inbound(OWN_SECOND, 8080, APPLICATION),
            *inbound(OWN, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *tcp(PROXY, OWN_SECOND, 8080, INBOUND),
            *guest(OWN_BRIDGE, 8080, INBOUND),
        ),
    ),
    Configuration(
        "interfaces excluded by prefix, as iptables writes it",
        "interfaces",
        {**EVERYTHING, "ISTIO_EXCLUDE_INTERFACES": "eth+"},
        (
            *tcp(APP, FAR, 80, APPLICATION),
            *tcp(APP, OTHER, 80, APPLICATION),
            *inbound(OWN, 8080, APPLICATION),
            *inbound(OWN_SECOND, 8080, APPLICATION),
            *guest(OWN_BRIDGE, 8080, INBOUND),
            *tcp(PROXY, OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "interfaces excluded by prefix, as nftables writes it",
        "interfaces",
        {**EVERYTHING, "ISTIO_EXCLUDE_INTERFACES": "virbr*,eth1"},
        (
            *tcp(APP, FAR, 80, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(APP, GUEST, 80, APPLICATION),
            *inbound(OWN, 8080, INBOUND),
            *guest(OWN_BRIDGE, 8080, APPLICATION),
            *guest(OWN, 8080, APPLICATION),
        ),
    ),
    Configuration(
        "loopback excluded",
        "interfaces",
        {**EVERYTHING, "ISTIO_EXCLUDE_INTERFACES": "lo"},
        (
            *tcp(PROXY, OWN, 8080, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "loopback excluded, and names",
        "loopback-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_EXCLUDE_INTERFACES": "lo",
        },
        (
            *both(APP, RESOLVER, 53, DNS),
            *both(APP, STUB, 53, APPLICATION),
            *both(PROXY, RESOLVER, 53, APPLICATION),
        ),
        resolvers=(*RESOLVER, STUB),
    ),
    Configuration(
        "ports by an excluded interface",
        "interfaces",
        {
            "ISTIO_OUTBOUND_PORTS": "3306",
            "ISTIO_INBOUND_PORTS": "8080",
            "ISTIO_EXCLUDE_INTERFACES": "eth0",
        },
        (
            *tcp(APP, OTHER, 3306, APPLICATION),
            *tcp(APP, FAR, 3306, OUTBOUND),
            *inbound(OWN, 8080, APPLICATION),
            *inbound(OWN_SECOND, 8080, INBOUND),
        ),
    ),
    Configuration(
        "names by an excluded interface",
        "interfaces-dns",
        {**EVERYTHING, "REDIRECT_DNS": "true", "ISTIO_EXCLUDE_INTERFACES": "eth1"},
        (
            *both(APP, RESOLVER_FAR, 53, APPLICATION),
            *both(APP, RESOLVER, 53, DNS),
        ),
        resolvers=(*RESOLVER, *RESOLVER_FAR),
    ),
)

GUESTS = (
    Configuration(
        "guests, everything",
        "kubevirt",
        {**EVERYTHING, "KUBE_VIRT_INTERFACES": "virbr0"},
        (
            *guest(MESH, 80, OUTBOUND),
            *guest(OTHER, 80, OUTBOUND),
            *guest(OWN_BRIDGE, 8080, OUTBOUND),
            *guest(OWN, 8080, OUTBOUND),
            *guest(METADATA, 80, APPLICATION),
            *guest(OTHER, 80, APPLICATION, "udp"),
            *guest(OWN_BRIDGE, 80, APPLICATION, "udp"),
            *inbound(OWN, 8080, INBOUND),
            *inbound(OWN_SECOND, 8080, INBOUND),
            *inbound(GUEST, 80, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(APP, GUEST, 80, OUTBOUND),
            *tcp(PROXY, OWN_BRIDGE, 8080, INBOUND),
        ),
    ),
    Configuration(
        "guests and ssh of the host",
        "kubevirt",
        {**EVERYTHING, "KUBE_VIRT_INTERFACES": "virbr0"},
        (
            *guest(OWN_BRIDGE, 22, APPLICATION),
            *guest(OWN_BRIDGE, 15021, APPLICATION),
            *guest(MESH, 22, OUTBOUND),
            *inbound(OWN, 22, APPLICATION),
        ),
    ),
    Configuration(
        "guests and a port excluded inbound",
        "guests-excluded-inbound",
        {
            **EVERYTHING,
            "ISTIO_LOCAL_EXCLUDE_PORTS": "9090",
            "KUBE_VIRT_INTERFACES": "virbr0",
        },
        (*guest(OWN_BRIDGE, 9090, OUTBOUND), *inbound(OWN, 9090, APPLICATION)),
    ),
    Configuration(
        "guests, lists",
        "kubevirt",
        {
            "ISTIO_SERVICE_CIDR": MESH_CIDR,
            "ISTIO_SERVICE_EXCLUDE_CIDR": EXCLUDED_CIDR,
            "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE": "8443",
            "ISTIO_INBOUND_PORTS": "*",
            "KUBE_VIRT_INTERFACES": "virbr0",
        },
        (
            *guest(MESH, 80, OUTBOUND),
            *guest(MESH, 8443, APPLICATION),
            *guest(EXCLUDED, 80, APPLICATION),
            *guest(OTHER, 80, APPLICATION),
            *guest(OWN_BRIDGE, 8080, APPLICATION),
            *guest(OWN, 8080, APPLICATION),
            *guest(MESH, 80, APPLICATION, "udp"),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "guests, whatever the groups",
        "kubevirt",
        {
            **EVERYTHING,
            "KUBE_VIRT_INTERFACES": "virbr0",
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha",
        },
        (*guest(MESH, 80, OUTBOUND), *tcp(APP, MESH, 80, APPLICATION)),
    ),
    Configuration(
        "guests, ports",
        "kubevirt",
        {"ISTIO_OUTBOUND_PORTS": "3306", "KUBE_VIRT_INTERFACES": "virbr0"},
        (
            *guest(OTHER, 80, APPLICATION),
            *guest(OTHER, 3306, OUTBOUND),
            *tcp(APP, OTHER, 3306, OUTBOUND),
        ),
    ),
    Configuration(
        "guests, own addresses by list",
        "kubevirt",
        {
            "ISTIO_SERVICE_CIDR": "10.3.0.0/16,fd00:3::/64",
            "ISTIO_INBOUND_PORTS": "8080",
            "KUBE_VIRT_INTERFACES": "virbr0",
        },
        (
            *guest(OWN_BRIDGE, 8080, OUTBOUND),
            *guest(OWN, 8080, APPLICATION),
            *guest(MESH, 80, APPLICATION),
        ),
    ),
    Configuration(
        "guests, nothing outbound",
        "kubevirt",
        {"ISTIO_INBOUND_PORTS": "*", "KUBE_VIRT_INTERFACES": "virbr0"},
        (
            *guest(OWN_BRIDGE, 8080, APPLICATION),
            *guest(MESH, 80, APPLICATION),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "guests on two interfaces",
        "kubevirt",
        {**EVERYTHING, "KUBE_VIRT_INTERFACES": "virbr0,eth1"},
        (
            *guest(MESH, 80, OUTBOUND),
            *inbound(OWN_SECOND, 8080, OUTBOUND),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "guests of another interface",
        "kubevirt",
        {**EVERYTHING, "KUBE_VIRT_INTERFACES": "br-none"},
        (
            *guest(MESH, 80, APPLICATION),
            *guest(OWN_BRIDGE, 8080, INBOUND),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "guests of an excluded interface",
        "kubevirt",
        {
            **EVERYTHING,
            "KUBE_VIRT_INTERFACES": "virbr0",
            "ISTIO_EXCLUDE_INTERFACES": "virbr0",
        },
        (*guest(MESH, 80, APPLICATION), *guest(OWN_BRIDGE, 8080, APPLICATION)),
    ),
    Configuration(
        "names that guests ask for",
        "kubevirt-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "KUBE_VIRT_INTERFACES": "virbr0",
        },
        (
            *guest(RESOLVER, 53, APPLICATION, "udp"),
            *guest(RESOLVER, 53, OUTBOUND),
            *both(APP, RESOLVER, 53, DNS),
        ),
    ),
)

LOOPBACK = (
    Configuration(
        "all of loopback is local",
        "loopback-cidr",
        {**EVERYTHING, "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8"},
        (
            *tcp(PROXY, LOOPBACK_9, 8080, APPLICATION),
            *tcp(PROXY, LOCALHOST, 8080, APPLICATION),
            *tcp(PROXY, OWN, 8080, INBOUND),
            *tcp(APP, LOOPBACK_9, 8080, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
        ),
    ),
    Configuration(
        "a part of loopback is local",
        "loopback-cidr",
        {**EVERYTHING, "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.8/30"},
        (
            *tcp(PROXY, LOOPBACK_9, 8080, APPLICATION),
            *tcp(PROXY, LOOPBACK_5, 8080, INBOUND),
            *tcp(PROXY, LOCALHOST.v6, 8080, APPLICATION),
        ),
    ),
    Configuration(
        "an address of loopback is a service, and all of loopback local",
        "loopback-both",
        {
            "ISTIO_SERVICE_CIDR": "127.0.0.5/32,10.96.0.0/12",
            "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.0/8",
        },
        (
            *tcp(APP, LOOPBACK_5, 80, APPLICATION),
            *tcp(PROXY, LOOPBACK_5, 80, APPLICATION),
            *tcp(APP, MESH.v4, 80, OUTBOUND),
        ),
    ),
    Configuration(
        "an address of loopback is a service",
        "plain",
        {"ISTIO_SERVICE_CIDR": "127.0.0.5/32,10.96.0.0/12"},
        (
            *tcp(APP, LOOPBACK_5, 80, OUTBOUND),
            *tcp(APP, LOOPBACK_9, 80, APPLICATION),
            *tcp(APP, LOCALHOST, 80, APPLICATION),
            *tcp(APP, OWN, 8080, APPLICATION),
            *tcp(PROXY, LOOPBACK_5, 80, INBOUND),
            *tcp(APP, MESH.v4, 80, OUTBOUND),
        ),
    ),
)

INVALID = (
    Configuration(
        "invalid, the later key counts",
        "contradictions",
        {**EVERYTHING, "DROP_INVALID": "true", "INVALID_DROP": "false"},
        (*invalid(INVALID_TCP, DELIVERED), *inbound(OWN, 8080, INBOUND)),
    ),
    *(
        Configuration(
            f"invalid dropped by {key}",
            "drop-invalid",
            {**EVERYTHING, key: "true"},
            (
                *tcp(APP, OTHER, 80, OUTBOUND),
                *inbound(OWN, 8080, INBOUND),
                *inbound(OWN, 22, APPLICATION),
                *udp(APP, OTHER, 80, APPLICATION),
                *invalid(INVALID_TCP, DROPPED),
                *invalid(INVALID_ICMP, DROPPED),
            ),
        )
        for key in ("DROP_INVALID", "INVALID_DROP")
    ),
    Configuration(
        "invalid let in",
        "plain",
        EVERYTHING,
        (*invalid(INVALID_TCP, DELIVERED), *invalid(INVALID_ICMP, DELIVERED)),
    ),
)

GID_LIKE_UID = User("gid like the other uid", 61500, 61340)
ITS_GROUP = User("group of envoy", 61500, 61341)
# The second proxy is no user of the host: its number stands for its group, too.
GID_OF_NOBODY = User("gid like the second uid", 61500, 61342)
USERS = (
    *(
        Configuration(
            f"another proxy by {', '.join(map('='.join, keys.items()))}",
            "proxy-users",
            {**EVERYTHING, **keys},
            (
                *tcp(OTHER_PROXY, OTHER, 80, APPLICATION),
                *tcp(ITS_GROUP, OTHER, 80, APPLICATION),
                *tcp(OTHER_PROXY, OWN, 8080, INBOUND),
                *tcp(OTHER_PROXY, OWN, 8080, APPLICATION, source=PASSTHROUGH),
                *tcp(PROXY, OTHER, 80, OUTBOUND),
                *tcp(PROXY, OWN, 8080, APPLICATION),
                *tcp(APP, OTHER, 80, OUTBOUND),
                *inbound(OWN, 8080, INBOUND),
            ),
            proxy=OTHER_PROXY,
        )
        for keys in (
            {"PROXY_UID": "61340", "PROXY_GID": "61341"},
            {"PROXY_UID": "envoy", "PROXY_GID": "envoy"},
            {"ENVOY_USER": "envoy"},
            {"EXEC_USER": "envoy"},
        )
    ),
    Configuration(
        "two proxies, groups by default",
        "proxy-users",
        {**EVERYTHING, "PROXY_UID": "61340,61342"},
        (
            *tcp(OTHER_PROXY, OTHER, 80, APPLICATION),
            *tcp(SECOND_PROXY, OTHER, 80, APPLICATION),
            *tcp(ITS_GROUP, OTHER, 80, APPLICATION),
            *tcp(GID_LIKE_UID, OTHER, 80, OUTBOUND),
            *tcp(GID_OF_NOBODY, OTHER, 80, APPLICATION),
            *tcp(OTHER_PROXY, OWN, 8080, INBOUND),
            *tcp(SECOND_PROXY, OWN, 8080, INBOUND),
            *tcp(ITS_GROUP, OWN, 8080, INBOUND),
            *tcp(GID_LIKE_UID, OWN, 8080, APPLICATION),
            *tcp(PROXY, OTHER, 80, OUTBOUND),
        ),
        proxy=OTHER_PROXY,
    ),
    Configuration(
        "more groups of the proxy",
        "proxy-users",
        {**EVERYTHING, "PROXY_GID": "61338,61341"},
        (
            *tcp(PROXY_UID, OTHER, 80, APPLICATION),
            *tcp(PROXY_GID, OTHER, 80, APPLICATION),
            *tcp(ITS_GROUP, OTHER, 80, APPLICATION),
            *tcp(ITS_GROUP, OWN, 8080, INBOUND),
            *tcp(APP, OTHER, 80, OUTBOUND),
        ),
    ),
    Configuration(
        "root left alone",
        "exempt-root",
        {**EVERYTHING, "ISTIO_HOSTAGENT_EXEMPT_ROOT": "true"},
        (
            *tcp(ROOT, OTHER, 80, APPLICATION),
            *tcp(ROOT_GROUP, OTHER, 80, APPLICATION),
            *tcp(User("root of a group", 0, 61500), OTHER, 80, APPLICATION),
            *tcp(User("member of gid 0", 61500, 61500, (0,)), OTHER, 80, OUTBOUND),
            *tcp(ROOT, OWN, 8080, APPLICATION),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(PROXY, OTHER, 80, APPLICATION),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
)

EXCLUDED_USERS = (
    Configuration(
        "users excluded",
        "excluded-users",
        {**EVERYTHING, "ISTIO_HOSTAGENT_EXCLUDE_USERS": "beta,61999"},
        (
            *tcp(BETA, OTHER, 80, APPLICATION),
            *tcp(User("beta elsewhere", 61601, 61500), OTHER, 80, APPLICATION),
            *tcp(User("its group", 61500, 61601), OTHER, 80, OUTBOUND),
            *tcp(User("number", 61999, 61500), OTHER, 80, APPLICATION),
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
            *tcp(ROOT, OTHER, 80, OUTBOUND),
            *tcp(PROXY, OTHER, 80, APPLICATION),
            *tcp(BETA, OWN, 8080, APPLICATION),
            *inbound(OWN, 8080, INBOUND),
        ),
    ),
    Configuration(
        "names of users, excluded",
        "excluded-users-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_HOSTAGENT_EXCLUDE_USERS": "beta",
        },
        (
            *both(BETA, RESOLVER, 53, APPLICATION),
            *both(ALPHA, RESOLVER, 53, DNS),
            *udp(BETA, RESOLVER, 53, APPLICATION, source_port=40021),
            *udp(ALPHA, RESOLVER, 53, DNS, source_port=40021),
        ),
    ),
    Configuration(
        "a user excluded from a captured group",
        "excluded-users",
        {
            **EVERYTHING,
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha",
            "ISTIO_HOSTAGENT_EXCLUDE_USERS": "61999",
        },
        (
            *tcp(User("number in alpha", 61999, 61600), OTHER, 80, APPLICATION),
            *tcp(ALPHA, OTHER, 80, OUTBOUND),
        ),
    ),
)

APP_UNIT, BATCH, BELOW = "app.service", "batch.slice", "batch.slice/one.scope/part"
WEB = "web.service"
UNITS = (
    Configuration(
        "units excluded",
        "units",
        {**EVERYTHING, "ISTIO_HOSTAGENT_EXCLUDE_UNITS": "<unit>app,<unit>batch.slice,no-such"},
        (
            *tcp(APP, OTHER, 80, APPLICATION, unit=APP_UNIT),
            *tcp(ROOT, OTHER, 80, APPLICATION, unit=APP_UNIT),
            *tcp(APP, OTHER, 80, APPLICATION, unit=BATCH),
            *tcp(APP, OTHER, 80, APPLICATION, unit=BELOW),
            *tcp(APP, OTHER, 80, OUTBOUND, unit=WEB),
            *tcp(ROOT, OTHER, 80, OUTBOUND, unit=WEB),
            *tcp(APP, OTHER, 80, OUTBOUND),
            *tcp(PROXY, OTHER, 80, APPLICATION, unit=WEB),
            *tcp(APP, OWN, 8080, APPLICATION, unit=APP_UNIT),
            *tcp(PROXY, OWN, 8080, INBOUND, unit=APP_UNIT),
            *udp(APP, OTHER, 80, APPLICATION, unit=APP_UNIT),
            *inbound(OWN, 8080, INBOUND),
        ),
        units=(APP_UNIT, BELOW, WEB),
        has_legacy=False,
    ),
    Configuration(
        "a unit excluded by path",
        "units",
        {
            "ISTIO_SERVICE_CIDR": MESH_CIDR,
            "ISTIO_HOSTAGENT_EXCLUDE_UNITS": "<slice><unit>batch.slice/one.scope",
        },
        (
            *tcp(APP, MESH, 80, APPLICATION, unit=BELOW),
            *tcp(APP, MESH, 80, OUTBOUND, unit=BATCH),
            *tcp(APP, MESH, 80, OUTBOUND, unit=APP_UNIT),
            *tcp(APP, OTHER, 80, APPLICATION, unit=APP_UNIT),
        ),
        units=(APP_UNIT, BELOW),
        has_legacy=False,
    ),
    Configuration(
        "names of units, excluded",
        "units-dns",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_HOSTAGENT_EXCLUDE_UNITS": "<unit>app.service",
        },
        (
            *both(APP, RESOLVER, 53, APPLICATION, unit=APP_UNIT),
            *both(APP, RESOLVER, 53, DNS, unit=WEB),
            *udp(APP, RESOLVER, 53, APPLICATION, unit=APP_UNIT, source_port=40031),
            *udp(APP, RESOLVER, 53, DNS, unit=WEB, source_port=40031),
            *udp(APP, RESOLVER, 53, APPLICATION, unit=APP_UNIT, source_port=40031),
        ),
        units=(APP_UNIT, WEB),
        has_legacy=False,
    ),
    Configuration(
        "a unit excluded, of a captured group",
        "units",
        {
            **EVERYTHING,
            "ISTIO_OUTBOUND_OWNER_GROUPS": "alpha",
            "ISTIO_HOSTAGENT_EXCLUDE_UNITS": "<unit>app.service",
        },
        (
            *tcp(ALPHA, OTHER, 80, APPLICATION, unit=APP_UNIT),
            *tcp(ALPHA, OTHER, 80, OUTBOUND, unit=WEB),
        ),
        units=(APP_UNIT, WEB),
        has_legacy=False,
    ),
)

ONLY_UNITS = (
    Configuration(
        "units alone",
        "units",
        {
            **EVERYTHING,
            "ISTIO_META_DNS_CAPTURE": "true",
            "ISTIO_HOSTAGENT_INCLUDE_UNITS": "<unit>app,<unit>batch.slice,no-such",
        },
        (
            *tcp(APP, OTHER, 80, OUTBOUND, unit=APP_UNIT),
            *tcp(ROOT, OTHER, 80, OUTBOUND, unit=APP_UNIT),
            *tcp(APP, OTHER, 80, OUTBOUND, unit=BELOW),
            *tcp(APP, OTHER, 80, APPLICATION, unit=WEB),
            *tcp(ROOT, OTHER, 80, APPLICATION, unit=WEB),
            *tcp(PROXY, OTHER, 80, APPLICATION, unit=APP_UNIT),
            *both(APP, RESOLVER, 53, DNS, unit=APP_UNIT),
            *both(APP, RESOLVER, 53, APPLICATION, unit=WEB),
            *udp(APP, RESOLVER, 53, APPLICATION, unit=WEB, source_port=40041),
            *udp(APP, RESOLVER, 53, DNS, unit=APP_UNIT, source_port=40041),
            *inbound(OWN, 8080, INBOUND),
            # Of no unit at all, as of one that nobody knows.
            *tcp(APP, OTHER, 80, OUTBOUND),
        ),
        units=(APP_UNIT, BELOW, WEB),
        has_legacy=False,
    ),
    Configuration(
        "a unit alone by path",
        "units",
        {
            "ISTIO_SERVICE_CIDR": MESH_CIDR,
            "ISTIO_HOSTAGENT_INCLUDE_UNITS": "<slice><unit>batch.slice/one.scope/part",
        },
        (
            *tcp(APP, MESH, 80, OUTBOUND, unit=BELOW),
            *tcp(APP, MESH, 80, APPLICATION, unit=WEB),
            *tcp(APP, OTHER, 80, APPLICATION, unit=BELOW),
        ),
        units=(BELOW, WEB),
        has_legacy=False,
    ),
)

CONFIGURATIONS = (
    *GROUPS,
    *INTERFACES,
    *GUESTS,
    *LOOPBACK,
    *INVALID,
    *USERS,
    *EXCLUDED_USERS,
    *UNITS,
    *ONLY_UNITS,
)
