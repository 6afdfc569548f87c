"""The rows of the table of keys (`settings`) that are about the non-transparent mode."""

from . import directfields, fields
from .setting import Setting

REDIRECT = Setting(
    "ISTIO_HOSTAGENT_REDIRECT",
    fields.parser_of({"rules": False, "none": True}),
    "rules",
    "How connections reach the proxy: by rules of the packet filter, or with none not by "
    "themselves. With none no rule is installed, those of the agent go out, and applications "
    "speak to the ports of ISTIO_HOSTAGENT_UPSTREAMS and ISTIO_HOSTAGENT_HTTP_PORT.",
)
UPSTREAMS = Setting(
    "ISTIO_HOSTAGENT_UPSTREAMS",
    directfields.parse_upstreams,
    "",
    "With ISTIO_HOSTAGENT_REDIRECT=none: ports of this host's loopback that lead to a destination "
    "by mutual TLS, PORT=HOST:PORT between commas, as 8001=mysql.onprem:3306. Names are resolved "
    "by the proxy, again and again.",
)
INBOUND = Setting(
    "ISTIO_HOSTAGENT_INBOUND",
    directfields.parse_inbound,
    "",
    "With ISTIO_HOSTAGENT_REDIRECT=none: ports that the proxy takes from outside, between commas. "
    "8443=8080: it listens on 8443 and hands on to 127.0.0.1:8080. 8080: it listens on 8080 of "
    "every address of this host, while the application has 127.0.0.1:8080. An ADDRESS:PORT behind "
    "= is an application elsewhere. Empty: the ports of ISTIO_INBOUND_PORTS.",
)
HTTP_PORT = Setting(
    "ISTIO_HOSTAGENT_HTTP_PORT",
    fields.parse_port_or_none,
    "0",
    "With ISTIO_HOSTAGENT_REDIRECT=none: the port of this host's loopback on which the proxy "
    "takes HTTP CONNECT and requests with a whole URL, as for HTTP_PROXY, and hands them on by "
    "mutual TLS; 0: nowhere.",
)
PLAIN = Setting(
    "ISTIO_HOSTAGENT_PLAIN",
    directfields.parse_hosts,
    "",
    "With ISTIO_HOSTAGENT_REDIRECT=none: hosts that are not in the mesh, as they stand in "
    "ISTIO_HOSTAGENT_UPSTREAMS or in a request: names, addresses, *.SUFFIX, or * for all. "
    "Connections to them are handed on as they are, without mutual TLS.",
)
ROWS: tuple[Setting[object], ...] = (UPSTREAMS, INBOUND, HTTP_PORT, PLAIN)
