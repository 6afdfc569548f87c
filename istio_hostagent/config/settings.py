"""The table of keys that the agent acts on: name, kind of value, default, one line of help.

One row drives parsing, the default, `etc/hostagent.env`, the manual page and `config --explain`.
Names of keys stand here and in `identitykeys`, `registrykeys`, `directkeys`, `foreign` (Istio's
others), and nowhere else. A fallback of `FALLBACKS` counts where its key is not set.

In a default, `<KEY>` stands for the value of that key. An empty value means the default, for every
key but OWNER_GROUPS.
"""

from . import directkeys, endpoints, fields, identitykeys, lists, model, registrykeys, units
from .setting import Setting

OWN_PREFIX = "ISTIO_HOSTAGENT_"

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
    lists.parse_cidr_set,
    "",
    "Destinations whose outbound TCP goes through the proxy: networks between commas, or * for "
    "all. Empty: none.",
)
SERVICE_EXCLUDE_CIDR = Setting(
    "ISTIO_SERVICE_EXCLUDE_CIDR",
    lists.parse_cidr_list,
    "",
    "Destinations that never go through the proxy, although ISTIO_SERVICE_CIDR has them.",
)
OUTBOUND_PORTS = Setting(
    "ISTIO_OUTBOUND_PORTS",
    lists.parse_port_list,
    "",
    "Destination ports that go through the proxy whatever the address: ports and ranges (a:b) "
    "between commas.",
)
OUTBOUND_PORTS_EXCLUDE = Setting(
    "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
    lists.parse_port_list,
    "",
    "Destination ports that never go through the proxy.",
)
INBOUND_PORTS = Setting(
    "ISTIO_INBOUND_PORTS",
    lists.parse_port_set,
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
FIREWALL = Setting(
    "ISTIO_HOSTAGENT_FIREWALL",
    fields.parser_of({"report": False, "open": True}),
    "report",
    "What is done where this host's firewall lets a port in and drops its connections once they "
    "are captured, since it then sees the port of the proxy: report names the rule and the "
    "command that mends it; open says each rule of the firewall that lets a captured port in once "
    "more, in front of it, for connections that were translated from that port to the proxy's.",
    is_guarded=True,
)
LOCAL_EXCLUDE_PORTS = Setting(
    "ISTIO_LOCAL_EXCLUDE_PORTS",
    lists.parse_port_list,
    "",
    "Ports whose inbound TCP is left alone, although ISTIO_INBOUND_PORTS is * or has them.",
)
INBOUND_EXCLUDE_PORTS = Setting(
    "ISTIO_INBOUND_EXCLUDE_PORTS",
    lists.parse_port_list,
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
    fields.parse_told_mode,
    "<ISTIO_INBOUND_INTERCEPTION_MODE>",
    "The interception mode as the control plane is told; it must be the one above, or NONE with "
    "ISTIO_HOSTAGENT_REDIRECT=none.",
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
    lists.parse_interfaces,
    "",
    "Network interfaces between commas; what goes out or comes in by them is left alone. With + "
    "or * behind it a name stands for all that begin so.",
)
GUEST_INTERFACES = Setting(
    "KUBE_VIRT_INTERFACES",
    lists.parse_interfaces,
    "",
    "Network interfaces of guests (virtual machines, containers), between commas: TCP that comes "
    "in by them is outbound traffic, and goes through the proxy as that of this host does.",
)
OWNER_GROUPS = Setting(
    "ISTIO_OUTBOUND_OWNER_GROUPS",
    lists.parse_group_set,
    "*",
    "Groups whose outbound traffic goes through the proxy: names and numbers between commas, at "
    "most 64, or * for all. Unlike other keys, set to nothing it means no group at all.",
)
OWNER_GROUPS_EXCLUDE = Setting(
    "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    lists.parse_groups,
    "",
    "Groups whose outbound traffic never goes through the proxy. Counts where "
    "ISTIO_OUTBOUND_OWNER_GROUPS is *.",
)
LOOPBACK_CIDR = Setting(
    "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
    lists.parse_loopback_network,
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
    "Set to true to have queries for names answered by who knows the names of the mesh: those to "
    "the name servers of /etc/resolv.conf. That is pilot-agent, or a resolver of ours beside an "
    "Envoy with a control plane; while it does not run, no name is resolved.",
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
    endpoints.parse_listen_port,
    "localhost:15053",
    "Where pilot-agent, or the resolver beside Envoy, answers queries for names.",
)
RESOLVER_USERS = Setting(
    "ISTIO_HOSTAGENT_RESOLVER_USERS",
    lists.parse_accounts,
    "systemd-resolve,dnsmasq,libvirt-dnsmasq,lxc-dnsmasq,unbound,bind,named,pdns,_dnsdist,"
    "knot-resolver,stubby,dnscrypt-proxy,_dnscrypt-proxy,smartdns,adguard-home,pihole",
    "Users whose queries for names are never captured: resolvers of this host, which would be "
    "asked in turn by whoever answers. Names that this host does not know count for nothing.",
    is_guarded=True,
)
PROXY_UID = Setting(
    "PROXY_UID",
    lists.parse_accounts,
    "istio-proxy",
    "Further users whose traffic is the proxy's own and never captured: numbers and names "
    "between commas. The agent runs the proxy as user istio-proxy, which always is one; apply "
    "without an agent takes these instead.",
    is_guarded=True,
)
PROXY_GID = Setting(
    "PROXY_GID",
    lists.parse_accounts,
    "<PROXY_UID>",
    "As PROXY_UID, for groups.",
    is_guarded=True,
)
ENVOY_USER = Setting(
    "ENVOY_USER",
    lists.parse_user,
    "istio-proxy",
    "As PROXY_UID, for one user and the user's group.",
    is_guarded=True,
)
EXEC_USER = Setting(
    "EXEC_USER",
    lists.parse_user,
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
EXCLUDE_USERS = Setting(
    "ISTIO_HOSTAGENT_EXCLUDE_USERS",
    lists.parse_accounts,
    "",
    "Users whose outbound traffic never goes through the proxy: names and numbers between commas.",
    is_guarded=True,
)
EXCLUDE_UNITS = Setting(
    "ISTIO_HOSTAGENT_EXCLUDE_UNITS",
    units.parse_units,
    "",
    "Units of systemd whose outbound traffic never goes through the proxy: names between commas "
    "(service, slice, scope, socket, mount, swap), or paths of control groups as in "
    "/proc/PID/cgroup, with all that is below. A unit is left alone from some milliseconds after "
    "its start on: until then it is captured as others are. A slice that stays has no such "
    "moment. Not with rules in legacy tables.",
    is_guarded=True,
)
INCLUDE_UNITS = Setting(
    "ISTIO_HOSTAGENT_INCLUDE_UNITS",
    units.parse_units,
    "",
    "Units of systemd whose outbound traffic alone goes through the proxy, written as in "
    "ISTIO_HOSTAGENT_EXCLUDE_UNITS. Every other unit is left alone from some milliseconds after "
    "its start on: until then it is captured, so that none of these goes around at its start. Not "
    "with rules in legacy tables. Empty: all units.",
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
    fields.parser_of({each.value: each for each in model.BACK_ENDS}),
    "auto",
    "What in the kernel keeps the rules: nftables; legacy, the tables of iptables-legacy; or auto "
    "for nftables where the kernel has nf_tables. A change counts from the next start on.",
    is_guarded=True,
)

# The control plane
SYSTEM_NAMESPACE = Setting(
    "ISTIO_SYSTEM_NAMESPACE",
    fields.parse_namespace,
    "istio-system",
    "The namespace of the control plane.",
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
PROXY_UNIT = Setting(
    "ISTIO_HOSTAGENT_PROXY_UNIT",
    fields.parser_of({"no": False, "auto": True}),
    "auto",
    "Whether the proxy runs in a unit of its own, istio-proxy@0.service (after a hot restart "
    "istio-proxy@1.service), and goes on while the agent is restarted: auto does so where the "
    "agent is the service of the package; no has it run below the agent, and end with it.",
    is_guarded=True,
)
SECRET_SOCKET = Setting(
    "ISTIO_HOSTAGENT_SECRET_SOCKET",
    fields.parse_optional_path,
    "",
    "The unix socket of a secret server (Envoy's SDS) from which the proxy takes key, certificate "
    "and roots: /run/istio-hostagent/secrets.sock is that of this package. Empty: from files, but "
    "for an Envoy with a control plane, which takes them from that socket, or from a server that "
    "the agent runs where it is not there.",
    is_guarded=True,
)
CONTROL_PLANE = Setting(
    "ISTIO_HOSTAGENT_CONTROL_PLANE",
    fields.parser_of({each.value: each for each in model.ControlPlane}),
    "auto",
    "Mode envoy: who says what becomes of captured traffic. istiod: the control plane, to which "
    "Envoy connects with this host's certificate; none: the two keys below; auto: istiod where "
    "PILOT_ADDRESS, ISTIO_PILOT_PORT, discoveryAddress in PROXY_CONFIG, ISTIO_META_WORKLOAD_NAME "
    "or ISTIO_META_AUTO_REGISTER_GROUP is set, the CA is no classic one, and neither of the two "
    "keys below is set.",
)
MESH_CIDR = Setting(
    "ISTIO_HOSTAGENT_MESH_CIDR",
    lists.parse_cidr_set,
    "",
    "Mode envoy without a control plane: destinations that are reached with mutual TLS. Empty: "
    "none, captured traffic passes through as it is.",
)
MTLS = Setting(
    "ISTIO_HOSTAGENT_MTLS",
    fields.parser_of({mtls.value: mtls for mtls in model.Mtls}),
    "permissive",
    "Mode envoy without a control plane: strict accepts mutual TLS only on captured ports, "
    "permissive takes plain connections as well; a plain client that waits for the server to "
    "speak first gets its first words a second later.",
)
ACCESS_LOG = Setting(
    "ISTIO_HOSTAGENT_ACCESS_LOG",
    fields.parse_bool,
    "false",
    "Mode envoy without a control plane: true writes one line for each connection to the journal.",
)
LOCAL_PORTS = Setting(
    "ISTIO_HOSTAGENT_LOCAL_PORTS",
    lists.parse_port_list,
    "",
    "Mode pilot-agent: ports of it and its Envoy that every user of this host may reach. The"
    " others of 15000, 15004 and 15020, and of statusPort and proxyAdminPort in PROXY_CONFIG,"
    " serve only root and istio-proxy here; from outside nothing changes.",
)
DRAIN = Setting(
    "ISTIO_HOSTAGENT_DRAIN",
    fields.parse_drain,
    "5s",
    "How long the proxy drains when the agent is stopped (systemctl stop, shutdown, SIGTERM in a "
    "container), and another agent's proxy when ours takes over: it says that it is not ready, "
    "and goes on serving. Only then the rules go, and the proxy. A restart or an upgrade drains "
    "nothing. 0s: not at all; at most 1h.",
)
RESTART_DRAIN = Setting(
    "ISTIO_HOSTAGENT_RESTART_DRAIN",
    fields.parse_drain,
    "45s",
    "Mode envoy: how long an Envoy goes on with the connections that it has, once another one has "
    "taken over from it, for a changed configuration or a new program at its path (hot restart). "
    "The next change waits for its end, 2 s later. 0s: no hot restart, Envoy is ended and started "
    "again; at most 1h.",
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
    "Where Envoy serves its metrics, below pilot-agent or with a control plane.",
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
AGENT_LOG_LEVEL = Setting(
    "ISTIO_HOSTAGENT_AGENT_LOG_LEVEL",
    # Numbers as in Python's logging.
    fields.parser_of({"error": 40, "warning": 30, "info": 20, "debug": 10}),
    "info",
    "Log level of the agent itself: error, warning, info or debug (each step). It counts at once.",
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
    endpoints.parse_address,
    "",
    "The address under which the control plane knows this host. Empty: the source address of the"
    " default route, or the first global address where there is none.",
)
POD_NAME = Setting(
    "POD_NAME",
    endpoints.parse_optional_host,
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
    endpoints.parse_host_port,
    "istiod.<ISTIO_SYSTEM_NAMESPACE>.svc:<ISTIO_PILOT_PORT>",
    "Where the proxy finds the control plane, and where certificates are asked for when CA_ADDR"
    " is not set: host:port.",
)
XDS_ROOT_CA = Setting(
    "XDS_ROOT_CA",
    fields.parse_optional_root,
    "",
    "The roots by which the proxy recognises the control plane: a PEM file, or SYSTEM for the "
    "operating system's store. Empty: the roots that the CA names.",
)

# What is captured, and how.
REDIRECTION: tuple[Setting[object], ...] = (
    CUSTOM_RULES, SERVICE_CIDR, SERVICE_EXCLUDE_CIDR, OUTBOUND_PORTS, OUTBOUND_PORTS_EXCLUDE,
    INBOUND_PORTS, CLOSED_PORTS, FIREWALL, LOCAL_EXCLUDE_PORTS, INBOUND_EXCLUDE_PORTS,
    INTERCEPTION_MODE, META_INTERCEPTION_MODE, TPROXY_MARK, TPROXY_TABLE, ENVOY_PORT,
    INBOUND_CAPTURE_PORT,
    INBOUND_TUNNEL_PORT, EXCLUDE_INTERFACES, GUEST_INTERFACES, OWNER_GROUPS, OWNER_GROUPS_EXCLUDE,
    LOOPBACK_CIDR,
    INVALID_DROP, DROP_INVALID, DNS_CAPTURE, REDIRECT_DNS, CAPTURE_ALL_DNS, DNS_ADDRESS,
    RESOLVER_USERS, PROXY_UID, PROXY_GID, ENVOY_USER, EXEC_USER, EXEMPT_ROOT, EXCLUDE_USERS,
    EXCLUDE_UNITS, INCLUDE_UNITS, RULES, BACK_END, directkeys.REDIRECT,
)  # fmt: skip

SETTINGS: tuple[Setting[object], ...] = (
    *REDIRECTION,
    SYSTEM_NAMESPACE,
    *identitykeys.ROWS,
    PROXY, PROXY_UNIT, ENVOY, BIN_BASE, SECRET_SOCKET, CONTROL_PLANE, MESH_CIDR, MTLS,
    *directkeys.ROWS, ACCESS_LOG,
    LOCAL_PORTS, STATUS_PORT, ENVOY_STATUS_PORT, PROMETHEUS_PORT, SECURE_METRICS_PORT,
    MERGED_METRICS_PORT, CONCURRENCY,
    LOG_LEVEL, AGENT_LOG_LEVEL, AGENT_FLAGS, SVC_IP, POD_NAME, SERVICE, DRAIN, RESTART_DRAIN,
    PILOT_PORT, PILOT_ADDRESS, XDS_ROOT_CA,
    *registrykeys.ROWS,
)  # fmt: skip

# The key that stands in where the first one is not set; both are of one kind.
FALLBACKS = {
    **identitykeys.FALLBACKS,
    STATUS_PORT.key: ENVOY_STATUS_PORT.key,
    INVALID_DROP.key: DROP_INVALID.key,
    DNS_CAPTURE.key: REDIRECT_DNS.key,
}

# What stands in for another key, but not where this one is set, from which the default is made:
# who names an istiod has had certificates from there. A Pilot of Istio 1.0 is no CA.
YIELDING = {identitykeys.CITADEL_ADDRESS.key: PILOT_ADDRESS.key}

# Ports on which the proxy listens; no two may be equal.
LISTENERS = (
    ENVOY_PORT,
    INBOUND_CAPTURE_PORT,
    INBOUND_TUNNEL_PORT,
    STATUS_PORT,
)
# Where nothing is redirected; beside them those that keys list.
DIRECT_LISTENERS = (STATUS_PORT, directkeys.HTTP_PORT)
# Those of pilot-agent and its Envoy, besides; 15020 has no key here.
METRICS = (PROMETHEUS_PORT, SECURE_METRICS_PORT, MERGED_METRICS_PORT)
# What names the control plane, or is there for it alone, beside discoveryAddress in PROXY_CONFIG.
OF_CONTROL_PLANE = (
    PILOT_ADDRESS.key, PILOT_PORT.key, "ISTIO_META_WORKLOAD_NAME",
    "ISTIO_META_AUTO_REGISTER_GROUP",
)  # fmt: skip
# What holds JSON; who forgets the quotes loses it without a word.
JSON_KEYS = ("ISTIO_META_POD_PORTS", "ISTIO_PROMETHEUS_ANNOTATIONS", "ISTIO_KUBE_APP_PROBERS")
JSON_FAMILY = "ISTIO_METAJSON_"
# Where anything else keeps pilot-agent from starting (istio/istio#33225).
JSON_OR_NO_START = ("ISTIO_META_POD_PORTS",)
# How pilot-agent speaks to the control plane; the first that is set counts.
AUTH_POLICY = ("ISTIO_CP_AUTH", "CONTROL_PLANE_AUTH_POLICY")  # Istio 0.8 and later; before
PROXY_CONFIG = "PROXY_CONFIG"  # YAML, in which people write JSON

KEYS = frozenset(row.key for row in SETTINGS)
ONCE_WITHOUT_EFFECT = frozenset(row.key for row in SETTINGS if row.was_without_effect)

# What only the redirection rules come from: no proxy reads these, so none is told of them, and
# none has to be started anew when one changes.
OF_RULES_ALONE = frozenset(
    row.key
    for row in (
        CUSTOM_RULES, SERVICE_CIDR, SERVICE_EXCLUDE_CIDR, OUTBOUND_PORTS, OUTBOUND_PORTS_EXCLUDE,
        INBOUND_PORTS, FIREWALL, LOCAL_EXCLUDE_PORTS, INBOUND_EXCLUDE_PORTS, INTERCEPTION_MODE,
        EXCLUDE_INTERFACES, GUEST_INTERFACES, OWNER_GROUPS, OWNER_GROUPS_EXCLUDE, LOOPBACK_CIDR,
        INVALID_DROP, DROP_INVALID, REDIRECT_DNS, CAPTURE_ALL_DNS, PROXY_UID, PROXY_GID,
        ENVOY_USER, EXEC_USER, TPROXY_TABLE,
    )
)  # fmt: skip
