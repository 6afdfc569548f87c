"""What the files of a host in memory say, and which rules and packets follow from that."""

from ipaddress import ip_address

from istio_hostagent.agent import places
from istio_hostagent.config import build, model
from istio_hostagent.redirect import expectations, expressions, policy, probes
from istio_hostagent.redirect import model as redirect

CLUSTER, SIDECAR, HOSTAGENT = "/etc/cluster.env", "/etc/sidecar.env", "/etc/hostagent.env"
TOKEN, ROOT, CERTS, OTHER_CERTS = "/etc/token", "/etc/root.pem", "/certs", "/other"
OUTPUT = "/etc/other/mesh.pem"
SOURCES = places.Sources(HOSTAGENT, CLUSTER, SIDECAR)
# A unit that is left alone while it runs, and its control group.
UNIT, GROUP = "backup.service", "/system.slice/backup.service"
ENVOY, PILOT_AGENT = "/usr/local/bin/envoy", "/usr/local/bin/pilot-agent"
FACTS = model.HostFacts(
    998,
    997,
    addresses=(ip_address("10.1.0.2"),),
    has_ipv6=False,
    users=(("root", 0, 0), ("systemd-resolve", 101, 102)),
    own_group="/system.slice/istio-hostagent.service",
    state_dir="/state",
    runtime_dir="/run",
)


def _text(**keys: str) -> bytes:
    return "".join(f"{key}={value}\n" for key, value in keys.items()).encode()


_GOOD = {
    "CA_ADDR": "10.78.0.1:15012",
    "ISTIO_SERVICE_CIDR": "10.96.0.0/12",
    "ISTIO_INBOUND_PORTS": "8080",
}
# What cluster.env may say: A; others that differ in everything, in outbound or inbound rules, or
# in the proxy.
TEXTS = {
    "A": _text(**_GOOD),
    "B": _text(
        **{**_GOOD, "ISTIO_SERVICE_CIDR": "10.99.0.0/16"},
        ENVOY_PORT="15101",
        OUTPUT_CERTS=OTHER_CERTS,
        ISTIO_NAMESPACE="other",
        SERVICE_ACCOUNT="other",
    ),
    "rules": _text(**{**_GOOD, "ISTIO_SERVICE_CIDR": "10.97.0.0/16"}),
    "proxy": _text(**_GOOD, ISTIO_HOSTAGENT_STATUS_PORT="15102"),
    "all": _text(**{**_GOOD, "ISTIO_INBOUND_PORTS": "*"}),
    "names": _text(**_GOOD, REDIRECT_DNS="true"),
}
BAD = _text(**{**_GOOD, "ISTIO_SERVICE_CIDR": "nonsense"})
# What hostagent.env says, of Envoy alone or of whichever proxy is there.
OWN = _text(
    ISTIO_HOSTAGENT_PROXY="envoy",
    OUTPUT_CERTS=CERTS,
    ISTIO_HOSTAGENT_TOKEN_FILE=TOKEN,
    CA_ROOT_CA=ROOT,
    ISTIO_HOSTAGENT_EXCLUDE_UNITS=UNIT,
    ISTIO_HOSTAGENT_OUTPUTS=f"pem:{OUTPUT}",
    ISTIO_HOSTAGENT_RENEW_HOOK="/bin/tell",
)

# The same, with nobody else who gets the certificate or is told.
OWN_ALONE = OWN.partition(b"ISTIO_HOSTAGENT_OUTPUTS")[0]

# Envoy alone is told by istiod what to do, and there is a resolver of names.
OWN_DIRECTED = OWN + b"ISTIO_HOSTAGENT_CONTROL_PLANE=istiod\n"

OWN_AUTO = OWN.replace(b"PROXY=envoy", b"PROXY=auto")


def config_of(text: bytes, hostagent: bytes = OWN, sidecar: bytes | None = None) -> model.Config:
    trust = model.Trust(is_root_only=True)
    files = ((HOSTAGENT, hostagent), (CLUSTER, text), (SIDECAR, sidecar))
    found = build.build_config([model.Layer(path, data, trust) for path, data in files], FACTS)
    assert found.config is not None, found.problems
    return found.config


CONFIGS = {name: config_of(text) for name, text in TEXTS.items()}
# Only where pilot-agent may run there are private ports.
_REDIRECTIONS = [
    (name, config_of(text, own).redirection)
    for name, text in TEXTS.items()
    for own in (OWN, OWN_AUTO)
] + [("names", config_of(TEXTS["names"], OWN_DIRECTED).redirection)]


# What this host may be, as far as it matters for rules and packets.
ADDRESSES = (ip_address("10.1.0.2"),), (ip_address("10.1.0.2"), ip_address("10.1.0.3")), ()
SSH_PORTS = (22,), (22, 2222)
_EVERY_FACT = [
    FACTS._replace(addresses=addresses, ssh_ports=ssh_ports, has_ipv6=has_ipv6)
    for addresses in ADDRESSES
    for ssh_ports in SSH_PORTS
    for has_ipv6 in (False, True)
]


def _as_installed(ruleset: redirect.Ruleset) -> tuple[object, object]:
    # Captured packets never get as far as the guard.
    tables = (table for table in ruleset.tables if table.name != redirect.GUARD_TABLE)
    compiled = (expressions.compile_table(table, redirect.Owner.NOBODY) for table in tables)
    return tuple(sorted(compiled, key=lambda table: table.name)), ruleset.loopback_addresses


# The configurations whose rules these are, by the rules as a kernel has them.
KNOWN: dict[object, set[str]] = {}


def packet_of(expectation: expectations.Expectation) -> tuple[object, ...]:
    """What is sent, whatever has to become of it."""
    whose = (expectation.uid, expectation.gid)
    return (*expectation[1:4], expectation.source, expectation.shape, *whose)


# By configuration and packet: what has to become of it.
EXPECTED: dict[str, dict[tuple[object, ...], expectations.Expectation]] = {}


# Whom a host may ask for names, where that matters.
_SERVER, _OTHER = ip_address("10.1.0.53"), ip_address("10.1.0.54")
NAME_SERVERS = (_SERVER,), (_OTHER,), (), (_SERVER, _OTHER)


def know(name: str, redirection: model.Redirection) -> None:
    """Let a host in memory know which rules and packets a configuration means."""
    servers = NAME_SERVERS if redirection.dns.is_captured else ((),)
    for facts in [each._replace(name_servers=some) for each in _EVERY_FACT for some in servers]:
        ruleset = policy.build_ruleset(redirection, facts)
        KNOWN.setdefault(_as_installed(ruleset), set()).add(name)
        made = probes.build_expectations(redirection, facts)
        EXPECTED.setdefault(name, {}).update((packet_of(each), each) for each in made)


for _name, _redirection in _REDIRECTIONS:
    know(_name, _redirection)
    # Where Envoy alone is there queries are not captured.
    know(_name, _redirection._replace(dns=model.Dns()))
