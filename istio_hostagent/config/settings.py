"""The table of keys that the agent acts on: name, kind of value, default, one line of help.

One row drives parsing, the default, `etc/hostagent.env`, the manual page and `config --explain`.
This is the only module, beside `foreign` (Istio's other keys), in which names of keys stand. A
stand-in of `FALLBACKS` counts where its key is not set.

In a default, `<KEY>` stands for the value of that key. An empty value means the default, for every
key but OWNER_GROUPS.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from . import fields, model

T_co = TypeVar("T_co", covariant=True)

OWN_PREFIX = "ISTIO_HOSTAGENT_"


class Setting(NamedTuple, Generic[T_co]):
    """One key.

    `is_guarded`: it names a command, user, binary or output path, and counts only from a file that
    only root can write (design invariant 5). What a key can do decides: a value that `is_harmless`
    counts from any file, and a key that `is_proxys` from one that only root and istio-proxy can
    write, since nobody else than istio-proxy acts on it.
    """

    key: str
    parse: Callable[[str], T_co]
    default: str
    help: str
    is_guarded: bool = False
    is_proxys: bool = False
    is_harmless: Callable[[Any], bool] = lambda _value: False

    def may_come_from(self, trust: model.Trust, value: object) -> bool:
        """Whether a value other than the default counts from a file that so many can write."""
        is_owners = trust.is_root_only or (self.is_proxys and trust.is_proxys)
        return not self.is_guarded or is_owners or self.is_harmless(value)


# Redirection
CUSTOM_RULES = Setting(
    "ISTIO_CUSTOM_IP_TABLES",
    fields.parse_bool,
    "false",
    "Set to true when the redirection rules are your own: the agent then takes its rules out "
    "and installs none.",
)
SERVICE_CIDR = Setting(
    "ISTIO_SERVICE_CIDR",
    fields.parse_cidr_set,
    "",
    "Destinations whose outbound TCP goes through the proxy: networks between commas, or * for "
    "all. Empty: none.",
)
SERVICE_EXCLUDE_CIDR = Setting(
    "ISTIO_SERVICE_EXCLUDE_CIDR",
    fields.parse_cidr_list,
    "",
    "Destinations that never go through the proxy, although ISTIO_SERVICE_CIDR has them.",
)
OUTBOUND_PORTS = Setting(
    "ISTIO_OUTBOUND_PORTS",
    fields.parse_port_list,
    "",
    "Destination ports that go through the proxy whatever the address: ports and ranges (a:b) "
    "between commas.",
)
OUTBOUND_PORTS_EXCLUDE = Setting(
    "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
    fields.parse_port_list,
    "",
    "Destination ports that never go through the proxy.",
)
INBOUND_PORTS = Setting(
    "ISTIO_INBOUND_PORTS",
    fields.parse_port_set,
    "",
    "Ports of this host's own addresses whose inbound TCP goes through the proxy: ports and "
    "ranges between commas, or * for all. Empty: none.",
)
CLOSED_PORTS = Setting(
    "ISTIO_HOSTAGENT_CLOSED_PORTS",
    fields.parser_of({"leave": True, "capture": False}),
    "leave",
    "What becomes of a port listed one by one in ISTIO_INBOUND_PORTS that this host's firewall "
    "closes and lets in once it is captured, as firewalld does: leave does not capture it as long "
    "as that is so, and names it in the status; capture opens it to whoever the proxy accepts. "
    "Where the proxy is Envoy by ISTIO_HOSTAGENT_PROXY=envoy and accepts mutual TLS only, it is "
    "captured in any case.",
    is_guarded=True,
)
LOCAL_EXCLUDE_PORTS = Setting(
    "ISTIO_LOCAL_EXCLUDE_PORTS",
    fields.parse_port_list,
    "",
    "Ports whose inbound TCP is left alone, although ISTIO_INBOUND_PORTS is * or has them.",
)
INBOUND_EXCLUDE_PORTS = Setting(
    "ISTIO_INBOUND_EXCLUDE_PORTS",
    fields.parse_port_list,
    "",
    "Added to ISTIO_LOCAL_EXCLUDE_PORTS. Istio documents this name and never reads it.",
)
INTERCEPTION_MODE = Setting(
    "ISTIO_INBOUND_INTERCEPTION_MODE",
    fields.parse_interception_mode,
    "REDIRECT",
    "How inbound connections reach the proxy: REDIRECT, or TPROXY, with which the proxy and the "
    "application see the address of the client. The proxy then has CAP_NET_ADMIN.",
)
META_INTERCEPTION_MODE = Setting(
    "ISTIO_META_INTERCEPTION_MODE",
    fields.parse_interception_mode,
    "<ISTIO_INBOUND_INTERCEPTION_MODE>",
    "The interception mode as the control plane is told; it must be the one above.",
)
TPROXY_MARK = Setting(
    "ISTIO_INBOUND_TPROXY_MARK",
    fields.parse_mark,
    "1337",
    "With TPROXY: the mark of packets that the proxy sends with the address of a client.",
)
TPROXY_TABLE = Setting(
    "ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
    fields.parse_routing_table,
    "133",
    "With TPROXY: the routing table that takes packets with this mark to this host.",
)
ENVOY_PORT = Setting(
    "ENVOY_PORT", fields.parse_port, "15001", "Where captured outbound connections arrive."
)
INBOUND_CAPTURE_PORT = Setting(
    "INBOUND_CAPTURE_PORT",
    fields.parse_port,
    "15006",
    "Where captured inbound connections arrive.",
)
INBOUND_TUNNEL_PORT = Setting(
    "INBOUND_TUNNEL_PORT",
    fields.parse_port,
    "15008",
    "The proxy's tunnel port, which is never captured.",
)
EXCLUDE_INTERFACES = Setting(
    "ISTIO_EXCLUDE_INTERFACES",
    fields.parse_interfaces,
    "",
    "Network interfaces between commas; what goes out or comes in by them is left alone. With + "
    "or * behind it a name stands for all that begin so.",
)
GUEST_INTERFACES = Setting(
    "KUBE_VIRT_INTERFACES",
    fields.parse_interfaces,
    "",
    "Network interfaces of guests (virtual machines, containers), between commas: TCP that comes "
    "in by them is outbound traffic, and goes through the proxy as that of this host does.",
)
OWNER_GROUPS = Setting(
    "ISTIO_OUTBOUND_OWNER_GROUPS",
    fields.parse_group_set,
    "*",
    "Groups whose outbound traffic goes through the proxy: names and numbers between commas, at "
    "most 64, or * for all. Unlike other keys, set to nothing it means no group at all.",
)
OWNER_GROUPS_EXCLUDE = Setting(
    "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    fields.parse_groups,
    "",
    "Groups whose outbound traffic never goes through the proxy. Counts where "
    "ISTIO_OUTBOUND_OWNER_GROUPS is *.",
)
LOOPBACK_CIDR = Setting(
    "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
    fields.parse_loopback_network,
    "127.0.0.1/32",
    "Loopback addresses at which the proxy reaches applications directly: 127.0.0.0/8 or a part "
    "of it.",
)
INVALID_DROP = Setting(
    "INVALID_DROP",
    fields.parse_bool,
    "false",
    "Set to true to drop arriving packets that belong to no connection, instead of having them "
    "answered with a reset.",
)
DROP_INVALID = Setting(
    "DROP_INVALID",
    fields.parse_bool,
    "false",
    "Used when INVALID_DROP is not set.",
)
DNS_CAPTURE = Setting(
    "ISTIO_META_DNS_CAPTURE",
    fields.parse_bool,
    "false",
    "Set to true to have queries for names answered by pilot-agent, which knows the names of the "
    "mesh: those to the name servers of /etc/resolv.conf. While pilot-agent does not run, no name "
    "is resolved.",
)
REDIRECT_DNS = Setting(
    "REDIRECT_DNS",
    fields.parse_bool,
    "false",
    "Used when ISTIO_META_DNS_CAPTURE is not set.",
)
CAPTURE_ALL_DNS = Setting(
    "CAPTURE_ALL_DNS",
    fields.parse_bool,
    "false",
    "Where queries for names are captured: true captures those to every name server.",
)
DNS_ADDRESS = Setting(
    "DNS_PROXY_ADDR",
    fields.parse_listen_port,
    "localhost:15053",
    "Where pilot-agent answers queries for names.",
)
RESOLVER_USERS = Setting(
    "ISTIO_HOSTAGENT_RESOLVER_USERS",
    fields.parse_accounts,
    "systemd-resolve,dnsmasq,libvirt-dnsmasq,lxc-dnsmasq,unbound,bind,named,pdns,_dnsdist,"
    "knot-resolver,stubby,dnscrypt-proxy,_dnscrypt-proxy,smartdns,adguard-home,pihole",
    "Users whose queries for names are never captured: resolvers of this host, which would be "
    "asked by pilot-agent in turn. Names that this host does not know count for nothing.",
    is_guarded=True,
)
PROXY_UID = Setting(
    "PROXY_UID",
    fields.parse_accounts,
    "istio-proxy",
    "Further users whose traffic is the proxy's own and never captured: numbers and names "
    "between commas. The agent runs the proxy as user istio-proxy, which always is one; apply "
    "without an agent takes these instead.",
    is_guarded=True,
)
PROXY_GID = Setting(
    "PROXY_GID",
    fields.parse_accounts,
    "<PROXY_UID>",
    "As PROXY_UID, for groups.",
    is_guarded=True,
)
ENVOY_USER = Setting(
    "ENVOY_USER",
    fields.parse_user,
    "istio-proxy",
    "As PROXY_UID, for one user and the user's group.",
    is_guarded=True,
)
EXEC_USER = Setting(
    "EXEC_USER",
    fields.parse_user,
    "istio-proxy",
    "As ENVOY_USER (the name in Istio's start script).",
    is_guarded=True,
)
EXEMPT_ROOT = Setting(
    "ISTIO_HOSTAGENT_EXEMPT_ROOT",
    fields.parse_bool,
    "false",
    "Set to true to leave what root and group root send alone, as Istio did until release 1.0.",
    is_guarded=True,
)
RULES = Setting(
    "ISTIO_HOSTAGENT_RULES",
    fields.parser_of({each.value: each for each in model.Generation}),
    "current",
    "The release of Istio whose rules are made. 1.0: what root and group root send is left alone, "
    "and every call to an own address of this host goes through the proxy as outbound. 0.8: "
    "captured inbound connections arrive at ENVOY_PORT, too. 0.7: port 22 is never captured, and "
    "an empty ISTIO_SERVICE_CIDR means all destinations.",
    is_guarded=True,
)
BACK_END = Setting(
    "ISTIO_HOSTAGENT_BACKEND",
    fields.parser_of({each.value: each for each in model.BackEnd}),
    "auto",
    "What in the kernel keeps the rules: nftables; legacy, the tables of iptables-legacy; or auto "
    "for nftables where the kernel has nf_tables. A change counts from the next start on.",
    is_guarded=True,
)

# Identity
SYSTEM_NAMESPACE = Setting(
    "ISTIO_SYSTEM_NAMESPACE",
    fields.parse_namespace,
    "istio-system",
    "The namespace of the control plane.",
)
CA_ADDR = Setting(
    "CA_ADDR",
    fields.parse_ca_address,
    "<PILOT_ADDRESS>",
    "Where certificates are asked for: host:port, always over TLS.",
)
ISTIO_CA = Setting(
    "ISTIO_CA",
    fields.parse_ca_address,
    "<PILOT_ADDRESS>",
    "Used when CA_ADDR is not set (the name in Istio 1.5).",
)
ISTIOD_SAN = Setting(
    "ISTIOD_SAN",
    fields.parse_optional_host,
    "",
    "The name that the CA's certificate must carry. Empty: the host of CA_ADDR, or"
    " istiod.<ISTIO_SYSTEM_NAMESPACE>.svc where that is an address or has localhost in it.",
)
TRUST_DOMAIN = Setting(
    "TRUST_DOMAIN",
    fields.parse_trust_domain,
    "cluster.local",
    "The trust domain of this host's identity.",
)
NAMESPACE = Setting(
    "ISTIO_NAMESPACE",
    fields.parse_namespace,
    "default",
    "The namespace of this host's workload.",
)
POD_NAMESPACE = Setting(
    "POD_NAMESPACE",
    fields.parse_namespace,
    "default",
    "Used when ISTIO_NAMESPACE is not set.",
)
SERVICE_ACCOUNT = Setting(
    "SERVICE_ACCOUNT",
    fields.parse_kubernetes_name,
    "default",
    "The service account of this host's identity.",
)
CLUSTER_ID = Setting(
    "ISTIO_META_CLUSTER_ID",
    fields.parse_header_text,
    "",
    "The cluster this host belongs to, as the control plane names it.",
)
TOKEN_FILE = Setting(
    "ISTIO_HOSTAGENT_TOKEN_FILE",
    fields.parse_path,
    "/var/run/secrets/tokens/istio-token",
    "The bootstrap token, read at each use by user istio-proxy.",
)
PROV_CERT = Setting(
    "PROV_CERT",
    fields.parse_path,
    "/etc/certs",
    "The directory in which root-cert.pem was put for the first contact with the CA.",
)
CA_ROOT_CA = Setting(
    "CA_ROOT_CA",
    fields.parse_root_file,
    "<PROV_CERT>/root-cert.pem",
    "The roots trusted for the first contact with the CA: a PEM file, or SYSTEM for the "
    "operating system's store; then the CA names the roots of the mesh itself.",
)
OUTPUT_CERTS = Setting(
    "OUTPUT_CERTS",
    fields.parse_path,
    "/etc/certs",
    "The directory that gets key.pem, cert-chain.pem and root-cert.pem.",
    is_guarded=True,
    is_proxys=True,
)
CERTS_DIR = Setting(
    "CERTS_DIR",
    fields.parse_path,
    "/etc/certs",
    "Used when OUTPUT_CERTS is not set (the name in Istio 1.0).",
    is_guarded=True,
    is_proxys=True,
)
SECRET_TTL = Setting(
    "SECRET_TTL",
    fields.parse_ttl,
    "24h",
    "The certificate life asked for, at most 2160h.",
)
GRACE_RATIO = Setting(
    "SECRET_GRACE_PERIOD_RATIO",
    fields.parse_ratio,
    "0.5",
    "The certificate is renewed when this fraction of its life is left.",
)

# Proxy
PROXY = Setting(
    "ISTIO_HOSTAGENT_PROXY",
    fields.parser_of({kind.value: kind for kind in model.ProxyKind}),
    "auto",
    "The program that carries captured traffic: pilot-agent, envoy, or auto for pilot-agent "
    "where it is installed.",
)
ENVOY = Setting(
    "ISTIO_HOSTAGENT_ENVOY",
    fields.parse_optional_path,
    "",
    "The Envoy binary. Empty: looked for in ISTIO_BIN_BASE, /usr/local/bin and /usr/bin.",
    is_guarded=True,
)
BIN_BASE = Setting(
    "ISTIO_BIN_BASE",
    fields.parse_path,
    "/usr/local/bin",
    "The directory in which pilot-agent and envoy are looked for first.",
    is_guarded=True,
)
MESH_CIDR = Setting(
    "ISTIO_HOSTAGENT_MESH_CIDR",
    fields.parse_cidr_set,
    "",
    "Mode envoy: destinations that are reached with mutual TLS. Empty: none, captured traffic "
    "passes through as it is.",
)
MTLS = Setting(
    "ISTIO_HOSTAGENT_MTLS",
    fields.parser_of({mtls.value: mtls for mtls in model.Mtls}),
    "permissive",
    "Mode envoy: strict accepts mutual TLS only on captured ports, permissive takes plain "
    "connections as well.",
)
ACCESS_LOG = Setting(
    "ISTIO_HOSTAGENT_ACCESS_LOG",
    fields.parse_bool,
    "false",
    "Mode envoy: true writes one line for each connection to the journal.",
)
LOCAL_PORTS = Setting(
    "ISTIO_HOSTAGENT_LOCAL_PORTS",
    fields.parse_port_list,
    "",
    "Mode pilot-agent: ports of it and its Envoy that every user of this host may reach. The"
    " others of 15000, 15004 and 15020, and of statusPort and proxyAdminPort in PROXY_CONFIG,"
    " serve only root and istio-proxy here; from outside nothing changes.",
)
STATUS_PORT = Setting(
    "ISTIO_HOSTAGENT_STATUS_PORT",
    fields.parse_port,
    "15021",
    "Where the proxy answers whether it is ready.",
)
ENVOY_STATUS_PORT = Setting(
    "ENVOY_STATUS_PORT",
    fields.parse_port,
    "15021",
    "Used when ISTIO_HOSTAGENT_STATUS_PORT is not set.",
)
PROMETHEUS_PORT = Setting(
    "ENVOY_PROMETHEUS_PORT",
    fields.parse_port,
    "15090",
    "Where Envoy serves its metrics, below pilot-agent.",
)
SECURE_METRICS_PORT = Setting(
    "ENVOY_SECURE_METRICS_PORT",
    fields.parse_port_or_none,
    "0",
    "Where Envoy's metrics are served with mutual TLS, below pilot-agent; 0: nowhere.",
)
MERGED_METRICS_PORT = Setting(
    "ENVOY_SECURE_MERGED_METRICS_PORT",
    fields.parse_port_or_none,
    "0",
    "Where merged metrics are served with mutual TLS, below pilot-agent; 0: nowhere.",
)
CONCURRENCY = Setting(
    "ISTIO_HOSTAGENT_CONCURRENCY",
    fields.parse_count,
    "2",
    "Worker threads of the proxy.",
)
LOG_LEVEL = Setting(
    "ISTIO_HOSTAGENT_LOG_LEVEL",
    fields.parse_log_level,
    "warning",
    "Log level of the proxy.",
)
AGENT_FLAGS = Setting(
    "ISTIO_AGENT_FLAGS",
    fields.parse_words,
    "",
    "Further arguments of pilot-agent, split at blanks. Those that change nothing but what is"
    " logged count from any file.",
    is_guarded=True,
    is_harmless=fields.is_about_logging,
)
SVC_IP = Setting(
    "ISTIO_SVC_IP",
    fields.parse_address,
    "",
    "The address under which the control plane knows this host. Empty: the source address of the"
    " default route, or the first global address where there is none.",
)
POD_NAME = Setting(
    "POD_NAME",
    fields.parse_optional_host,
    "",
    "The name under which the control plane knows this host. Empty: the short host name.",
)
SERVICE = Setting(
    "ISTIO_SERVICE",
    fields.parse_text,
    "rawvm",
    "The name of the service on this host, for pilot-agent.",
)
PILOT_PORT = Setting(
    "ISTIO_PILOT_PORT",
    fields.parse_port,
    "15012",
    "The port of the control plane when PILOT_ADDRESS is not set.",
)
PILOT_ADDRESS = Setting(
    "PILOT_ADDRESS",
    fields.parse_host_port,
    "istiod.<ISTIO_SYSTEM_NAMESPACE>.svc:<ISTIO_PILOT_PORT>",
    "Where pilot-agent finds the control plane, and where certificates are asked for when CA_ADDR"
    " is not set: host:port.",
)
XDS_ROOT_CA = Setting(
    "XDS_ROOT_CA",
    fields.parse_optional_root,
    "",
    "The roots by which pilot-agent recognises the control plane: a PEM file, or SYSTEM for the "
    "operating system's store. Empty: the roots that the CA names.",
)

# What is captured, and how.
REDIRECTION: tuple[Setting[object], ...] = (
    CUSTOM_RULES, SERVICE_CIDR, SERVICE_EXCLUDE_CIDR, OUTBOUND_PORTS, OUTBOUND_PORTS_EXCLUDE,
    INBOUND_PORTS, CLOSED_PORTS, LOCAL_EXCLUDE_PORTS, INBOUND_EXCLUDE_PORTS, INTERCEPTION_MODE,
    META_INTERCEPTION_MODE, TPROXY_MARK, TPROXY_TABLE, ENVOY_PORT, INBOUND_CAPTURE_PORT,
    INBOUND_TUNNEL_PORT, EXCLUDE_INTERFACES, GUEST_INTERFACES, OWNER_GROUPS, OWNER_GROUPS_EXCLUDE,
    LOOPBACK_CIDR,
    INVALID_DROP, DROP_INVALID, DNS_CAPTURE, REDIRECT_DNS, CAPTURE_ALL_DNS, DNS_ADDRESS,
    RESOLVER_USERS, PROXY_UID, PROXY_GID, ENVOY_USER, EXEC_USER, EXEMPT_ROOT, RULES, BACK_END,
)  # fmt: skip

SETTINGS: tuple[Setting[object], ...] = (
    *REDIRECTION,
    SYSTEM_NAMESPACE, CA_ADDR, ISTIO_CA, ISTIOD_SAN, TRUST_DOMAIN, NAMESPACE, POD_NAMESPACE,
    SERVICE_ACCOUNT, CLUSTER_ID, TOKEN_FILE, PROV_CERT, CA_ROOT_CA, OUTPUT_CERTS, CERTS_DIR,
    SECRET_TTL, GRACE_RATIO,
    PROXY, ENVOY, BIN_BASE, MESH_CIDR, MTLS, ACCESS_LOG, LOCAL_PORTS, STATUS_PORT,
    ENVOY_STATUS_PORT, PROMETHEUS_PORT, SECURE_METRICS_PORT, MERGED_METRICS_PORT, CONCURRENCY,
    LOG_LEVEL, AGENT_FLAGS, SVC_IP, POD_NAME, SERVICE,
    PILOT_PORT, PILOT_ADDRESS, XDS_ROOT_CA,
)  # fmt: skip

# The key that stands in where the first one is not set; both are of one kind.
FALLBACKS = {
    CA_ADDR.key: ISTIO_CA.key,
    NAMESPACE.key: POD_NAMESPACE.key,
    OUTPUT_CERTS.key: CERTS_DIR.key,
    STATUS_PORT.key: ENVOY_STATUS_PORT.key,
    INVALID_DROP.key: DROP_INVALID.key,
    DNS_CAPTURE.key: REDIRECT_DNS.key,
}

# Ports on which the proxy listens; no two may be equal.
LISTENERS = (
    ENVOY_PORT,
    INBOUND_CAPTURE_PORT,
    INBOUND_TUNNEL_PORT,
    STATUS_PORT,
)
# Those of pilot-agent and its Envoy, besides; 15020 has no key here.
METRICS = (PROMETHEUS_PORT, SECURE_METRICS_PORT, MERGED_METRICS_PORT)
# What holds JSON; who forgets the quotes loses it without a word.
JSON_KEYS = ("ISTIO_META_POD_PORTS", "ISTIO_PROMETHEUS_ANNOTATIONS", "ISTIO_KUBE_APP_PROBERS")
JSON_FAMILY = "ISTIO_METAJSON_"
# Where anything else keeps pilot-agent from starting (istio/istio#33225).
JSON_OR_NO_START = ("ISTIO_META_POD_PORTS",)
# How pilot-agent speaks to the control plane; the first that is set counts.
AUTH_POLICY = ("ISTIO_CP_AUTH", "CONTROL_PLANE_AUTH_POLICY")  # Istio 0.8 and later; before
PROXY_CONFIG = "PROXY_CONFIG"  # YAML, in which people write JSON

KEYS = frozenset(row.key for row in SETTINGS)

# What only the redirection rules come from: no proxy reads these, so none is told of them, and
# none has to be started anew when one changes.
OF_RULES_ALONE = frozenset(
    row.key
    for row in (
        CUSTOM_RULES, SERVICE_CIDR, SERVICE_EXCLUDE_CIDR, OUTBOUND_PORTS, OUTBOUND_PORTS_EXCLUDE,
        INBOUND_PORTS, LOCAL_EXCLUDE_PORTS, INBOUND_EXCLUDE_PORTS, INTERCEPTION_MODE,
        EXCLUDE_INTERFACES, GUEST_INTERFACES, OWNER_GROUPS, OWNER_GROUPS_EXCLUDE, LOOPBACK_CIDR,
        INVALID_DROP, DROP_INVALID, REDIRECT_DNS, CAPTURE_ALL_DNS, PROXY_UID, PROXY_GID,
        ENVOY_USER, EXEC_USER, TPROXY_TABLE,
    )
)  # fmt: skip

# A family: the rest of the key is the name of the header.
CA_HEADER = Setting(
    "CA_HEADER_", fields.parse_header, "", "A further header of requests to the CA."
)
