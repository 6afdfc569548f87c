"""The rows of the table of keys about registries of services."""

from . import consulaccess, endpoints, fields, registering
from .setting import Setting

REGISTER = Setting(
    "ISTIO_HOSTAGENT_REGISTER",
    registering.parse_services,
    "",
    "Services of this host that the agent registers with Consul once it has joined, and takes "
    "away when it is stopped: NAME=PORT,PORT between blanks, where PORT is a number or "
    "NAME:NUMBER, as in web=http:8080. They are well as long as this host is in the mesh.",
)
REGISTER_LABELS = Setting(
    "ISTIO_HOSTAGENT_REGISTER_LABELS",
    registering.parse_pairs,
    "",
    "Labels of these services: KEY=VALUE between commas.",
)
CONSUL_CAPTURE = Setting(
    "ISTIO_HOSTAGENT_CONSUL_CAPTURE",
    registering.parse_captured,
    "",
    "Services whose addresses, as Consul's catalogue has them, are captured besides "
    "ISTIO_SERVICE_CIDR: names between commas, or * for all but Consul's own servers. What its "
    "agents say to each other (ports 8300 to 8302) is then left alone.",
)
CONSUL = Setting(
    "ISTIO_HOSTAGENT_CONSUL",
    consulaccess.parse_address,
    "http://127.0.0.1:8500",
    "Where the API of this host's agent of Consul is: http://HOST:PORT, https://HOST:PORT, or "
    "unix:// and a path.",
)
CONSUL_TOKEN_FILE = Setting(
    "ISTIO_HOSTAGENT_CONSUL_TOKEN_FILE",
    fields.parse_optional_path,
    "",
    "A file with the token for Consul, read at each use by user istio-proxy.",
)
CONSUL_CACERT = Setting(
    "ISTIO_HOSTAGENT_CONSUL_CACERT",
    fields.parse_optional_path,
    "",
    "The roots by which Consul is known over https. Empty: those of the operating system.",
)
CONSUL_CLIENT_CERT = Setting(
    "ISTIO_HOSTAGENT_CONSUL_CLIENT_CERT",
    fields.parse_optional_path,
    "",
    "A certificate that is shown to Consul, as PEM, read by user istio-proxy.",
)
CONSUL_CLIENT_KEY = Setting(
    "ISTIO_HOSTAGENT_CONSUL_CLIENT_KEY",
    fields.parse_optional_path,
    "",
    "Its key.",
)
CONSUL_SERVER_NAME = Setting(
    "ISTIO_HOSTAGENT_CONSUL_SERVER_NAME",
    endpoints.parse_optional_host,
    "",
    "The name that Consul's certificate has to carry, if that is not the host of the address.",
)

ROWS: tuple[Setting[object], ...] = (
    REGISTER, REGISTER_LABELS, CONSUL_CAPTURE, CONSUL, CONSUL_TOKEN_FILE, CONSUL_CACERT,
    CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_SERVER_NAME,
)  # fmt: skip
