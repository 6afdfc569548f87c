"""Kinds of values: what each takes, and the sentence for everything else."""

import doctest
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from types import ModuleType

import pytest

from istio_hostagent.config import endpoints, fields, lists, proxykeys
from istio_hostagent.config.model import CidrSet, PortSet


@pytest.mark.parametrize(
    "module", [fields, lists, endpoints, proxykeys], ids=lambda each: each.__name__
)
def test_examples_in_the_docstrings_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def ports(*ranges: tuple[int, int]) -> PortSet:
    return PortSet(ranges=ranges)


def networks(*texts: str) -> CidrSet:
    return CidrSet.of(ip_network(text) for text in texts)


TAKEN: list[tuple[Callable[[str], object], str, object]] = [
    (fields.parse_text, " a b ", "a b"),
    (fields.parse_text, "", ""),
    (fields.parse_bool, "true", True),
    (fields.parse_bool, " YES ", True),
    (fields.parse_bool, "1", True),
    (fields.parse_bool, "False", False),
    (fields.parse_bool, "no", False),
    (fields.parse_bool, "0", False),
    (fields.parse_port, "1", 1),
    (fields.parse_port, " 65535 ", 65535),
    (fields.parse_count, "1024", 1024),
    (lists.parse_port_set, "*", PortSet(is_all=True)),
    (lists.parse_port_set, "", PortSet()),
    (lists.parse_port_set, " , ,", PortSet()),
    (lists.parse_port_set, ",443, 80,80, ", ports((80, 80), (443, 443))),
    (lists.parse_port_set, "8000:8010", ports((8000, 8010))),
    (lists.parse_port_set, "8000 - 8010 , 22", ports((22, 22), (8000, 8010))),
    (lists.parse_port_set, "8005,8000-8010", ports((8000, 8010), (8005, 8005))),
    (lists.parse_port_list, "22,15090", ports((22, 22), (15090, 15090))),
    (lists.parse_cidr_set, "*", CidrSet(is_all=True)),
    (lists.parse_cidr_set, "", CidrSet()),
    (lists.parse_cidr_set, "10.1.2.3/8", networks("10.0.0.0/8")),
    (lists.parse_cidr_set, "10.1.2.3", networks("10.1.2.3/32")),
    (lists.parse_cidr_set, "0.0.0.0/0,::/0", networks("0.0.0.0/0", "::/0")),
    (lists.parse_cidr_set, "FD00::1", networks("fd00::1/128")),
    (lists.parse_cidr_set, "fd00::1/64", networks("fd00::/64")),
    (lists.parse_cidr_set, "172.16.0.0/12 , 10.0.0.0/8,", networks("172.16.0.0/12", "10.0.0.0/8")),
    (lists.parse_cidr_set, "10.0.0.1/8,10.0.0.2/8", networks("10.0.0.0/8")),
    (lists.parse_cidr_set, "fd00::/8,9.0.0.0/8,10.0.0.0/9,10.0.0.0/8,9.0.0.0/8",
     networks("9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/9", "fd00::/8")),
    (lists.parse_cidr_list, "10.0.0.0/8", networks("10.0.0.0/8")),
    (endpoints.parse_address, "", None),
    (endpoints.parse_address, " 10.0.0.5 ", IPv4Address("10.0.0.5")),
    (endpoints.parse_address, "fd00::5", IPv6Address("fd00::5")),
    (fields.parse_duration, "24h", 86400),
    (fields.parse_duration, "1h30m", 5400),
    (fields.parse_duration, "90s", 90),
    (fields.parse_duration, "1.5h", 5400),
    (fields.parse_duration, ".5s500ms", 1),
    (fields.parse_duration, "5us", 0.000005),
    (fields.parse_ttl, "2160h", 90 * 86400),
    (fields.parse_ttl, "1s", 1),
    (fields.parse_ratio, "0.25", 0.25),
    (fields.parse_jitter, "0", 0.0),
    (fields.parse_jitter, "1", 1.0),
    (fields.parse_jitter, " 0.01", 0.01),
    (endpoints.parse_host, "istiod.istio-system.svc", "istiod.istio-system.svc"),
    (endpoints.parse_host, "localhost", "localhost"),
    (endpoints.parse_host, "FD00:0::1", "fd00::1"),
    (endpoints.parse_host, "vm_1", "vm_1"),
    (endpoints.parse_optional_host, "", ""),
    (endpoints.parse_optional_host, "vm-1", "vm-1"),
    (endpoints.parse_host_port, "istiod.istio-system.svc:15012", ("istiod.istio-system.svc", 15012)),
    (endpoints.parse_host_port, "10.0.0.1:443", ("10.0.0.1", 443)),
    (endpoints.parse_host_port, "[fd00::1]:15012", ("fd00::1", 15012)),
    (fields.parse_path, "/etc/certs", "/etc/certs"),
    (fields.parse_path, "./etc/certs/", "/etc/certs"),
    (fields.parse_path, "etc/certs", "/etc/certs"),
    (fields.parse_optional_path, "", None),
    (fields.parse_optional_path, "/usr/bin/envoy", "/usr/bin/envoy"),
    (fields.parse_root_file, "SYSTEM", "/etc/ssl/certs/ca-certificates.crt"),
    (fields.parse_root_file, "/a/b.pem", "/a/b.pem"),
    (fields.parse_kubernetes_name, "vm-sa.v2", "vm-sa.v2"),
    (fields.parse_namespace, "istio-system", "istio-system"),
    (fields.parse_trust_domain, "cluster.local", "cluster.local"),
    (fields.parse_interception_mode, "redirect", False), (fields.parse_interception_mode, " TPROXY ", True),
    (fields.parse_mark, "0x539", 1337), (fields.parse_mark, "4294967295", 4294967295), (fields.parse_routing_table, "133", 133),
    (fields.parse_log_level, "Debug", "debug"),
    (fields.parse_words, " --proxyLogLevel  debug ", ("--proxyLogLevel", "debug")),
    (fields.parse_words, "", ()),
    (fields.parse_header, "Bearer abc", "Bearer abc"),
    (fields.parse_header_text, " Kubernetes ", "Kubernetes"),
    (fields.parser_of({"a": 1}), "A", 1),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text", "value"), TAKEN)
def test_value_is_taken(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


PORT = "is not a port between 1 and 65535"
REFUSED: list[tuple[Callable[[str], object], str, str]] = [
    (fields.parse_text, "a\nb", "a control character or line end is inside the value"),
    (fields.parse_bool, "on", "'on' is neither true nor false"),
    (fields.parse_bool, "", "'' is neither true nor false"),
    (fields.parse_port, "0", f"'0' {PORT}"),
    (fields.parse_port, "65536", f"'65536' {PORT}"),
    (fields.parse_port, "-1", f"'-1' {PORT}"),
    (fields.parse_port, "1_000", f"'1_000' {PORT}"),
    (fields.parse_port, "٣", f"'٣' {PORT}"),
    (fields.parse_port, "8080\u00a01", f"'8080\\xa01' {PORT}"),
    (fields.parse_port, "9" * 5000, f"'{'9' * 40}…' {PORT}"),
    (fields.parse_count, "0", "'0' is not a number between 1 and 1024"),
    (lists.parse_port_set, "80,http", f"'http' {PORT}"),
    (lists.parse_port_set, "80,*", "`*` means every port and stands alone"),
    (lists.parse_port_set, "8010:8000", "the range '8010:8000' ends before it begins"),
    (lists.parse_port_set, "8000:", f"'' {PORT}"),
    (lists.parse_port_set, "1:2:3", f"'2:3' {PORT}"),
    (lists.parse_port_set, "80 443", f"'80 443' {PORT}"),
    (lists.parse_port_set, "8080,,3306", "between two commas nothing is written: write 8080,3306"),
    (lists.parse_port_set, "80 , , 81,", "between two commas nothing is written: write 80,81"),
    (lists.parse_port_list, "22,,,15090", "between two commas nothing is written: write 22,15090"),
    (lists.parse_cidr_set, "10.0.0.0/8,,fd00::/8", "between two commas nothing is written: write 10.0.0.0/8,fd00::/8"),
    (lists.parse_cidr_list, "10.0.0.0/8, ,10.0.0.1", "between two commas nothing is written: write 10.0.0.0/8,10.0.0.1"),
    (lists.parse_port_list, "*", "`*` is not possible here: write the ports"),
    (lists.parse_cidr_set, "10.0.0.0/8,*", "`*` means every destination and stands alone"),
    (lists.parse_cidr_set, "10.0.0/8", "'10.0.0/8' is not a network such as 10.0.0.0/8 or fd00::/8"),
    (lists.parse_cidr_set, "010.0.0.1", "'010.0.0.1' is not a network such as 10.0.0.0/8 or fd00::/8"),
    (lists.parse_cidr_set, "fd00::/8/8", "the prefix length of 'fd00::/8/8' is not a number up to 128"),
    (lists.parse_cidr_set, "10.0.0.0/33", "the prefix length of '10.0.0.0/33' is not a number up to 32"),
    (lists.parse_cidr_set, "10.0.0.0/", "the prefix length of '10.0.0.0/' is not a number up to 32"),
    (
        lists.parse_cidr_set,
        "10.0.0.0/255.0.0.0",
        "the prefix length of '10.0.0.0/255.0.0.0' is not a number up to 32",
    ),
    (lists.parse_cidr_set, "fe80::1%eth0", "'fe80::1%eth0' has a zone, which has no place in a network"),
    (lists.parse_cidr_set, "10.0.0.0*", "'10.0.0.0*' is not a network such as 10.0.0.0/8 or fd00::/8"),
    (lists.parse_cidr_list, "*", "`*` is not possible here: write the networks"),
    (endpoints.parse_address, "10.0.0.1 10.0.0.2", "'10.0.0.1 10.0.0.2' is not one IP address"),
    (endpoints.parse_address, "10.0.0.0/8", "'10.0.0.0/8' is not one IP address"),
    (
        endpoints.parse_address,
        "fe80::1%eth0",
        "'fe80::1%eth0' is a link-local address, which other hosts cannot use",
    ),
    (fields.parse_duration, "24", "'24' is not a duration such as 24h or 1h30m"),
    (fields.parse_duration, "", "'' is not a duration such as 24h or 1h30m"),
    (fields.parse_duration, "1d", "'1d' is not a duration such as 24h or 1h30m"),
    (fields.parse_duration, "-1h", "'-1h' is not a duration such as 24h or 1h30m"),
    (fields.parse_duration, "1h " + "1" * 80, f"'1h {'1' * 37}…' is not a duration such as 24h or 1h30m"),
    (fields.parse_duration, "0s", "'0s' is no time at all"),
    (fields.parse_ttl, "2161h", "'2161h' is not between 1s and 2160h (90 days), which is what istiod grants"),
    (fields.parse_ttl, "9" * 60 + "h", f"'{'9' * 40}…' is not between 1s and 2160h (90 days), which is what istiod grants"),
    (fields.parse_ttl, "5ms", "'5ms' is not between 1s and 2160h (90 days), which is what istiod grants"),
    (fields.parse_jitter, "-0.1", "'-0.1' is not a fraction from 0 to 1, such as 0.05"),
    (fields.parse_jitter, "1.1", "'1.1' is not a fraction from 0 to 1, such as 0.05"),
    (fields.parse_jitter, "nan", "'nan' is not a fraction from 0 to 1, such as 0.05"),
    (fields.parse_jitter, "15m", "'15m' is not a fraction from 0 to 1, such as 0.05"),
    (fields.parse_ratio, "0", "'0' is not a fraction between 0 and 1, such as 0.5"),
    (fields.parse_ratio, "1", "'1' is not a fraction between 0 and 1, such as 0.5"),
    (fields.parse_ratio, "nan", "'nan' is not a fraction between 0 and 1, such as 0.5"),
    (fields.parse_ratio, "half", "'half' is not a fraction between 0 and 1, such as 0.5"),
    (fields.parse_ratio, "0." + "1" * 40, f"'0.{'1' * 38}…' is not a fraction between 0 and 1, such as 0.5"),
    (endpoints.parse_host, "a b", "'a b' is neither a host name nor an address"),
    (endpoints.parse_host, "-a", "'-a' is neither a host name nor an address"),
    (endpoints.parse_host, "10.0.0.256", "'10.0.0.256' is neither a host name nor an address"),
    (endpoints.parse_host, "", "'' is neither a host name nor an address"),
    (endpoints.parse_host, "a" * 64, f"'{'a' * 40}…' is neither a host name nor an address"),
    (endpoints.parse_host_port, "istiod", "'istiod' has no port: write host:port"),
    (endpoints.parse_host_port, "https://istiod:15012", "'https://istiod:15012' must be host:port, without a scheme"),
    (endpoints.parse_host_port, "fd00::1:15012", "'fd00::1:15012' must be host:port, or [address]:port for IPv6"),
    (endpoints.parse_host_port, "[istiod]:1", "'[istiod]:1' has brackets around something that is no IPv6 address"),
    (endpoints.parse_host_port, "istiod:", f"'' {PORT}"),
    (endpoints.parse_host_port, ":15012", "'' is neither a host name nor an address"),
    (fields.parse_path, "", "'' is not a path without `..`"),
    (fields.parse_path, "/etc/../root", "'/etc/../root' is not a path without `..`"),
    (fields.parse_path, "/a\x00b", "a control character or line end is inside the value"),
    (fields.parse_kubernetes_name, "My App", "'My App' is not a name of lower-case letters, digits, '-' and '.'"),
    (fields.parse_namespace, "a.b", "'a.b' is not a namespace: it has a dot or more than 63 characters"),
    (fields.parse_namespace, "a" * 64, f"'{'a' * 40}…' is not a namespace: it has a dot or more than 63 characters"),
    (fields.parse_trust_domain, "a/b", "'a/b' is not a trust domain such as cluster.local"),
    (fields.parse_mark, "0", "'0' is not a mark between 1 and 4294967295"),
    (fields.parse_mark, "0x1_0", "'0x1_0' is not a mark between 1 and 4294967295"),
    (fields.parse_mark, "0x100000000", "'0x100000000' is not a mark between 1 and 4294967295"),
    (fields.parse_routing_table, "0", "'0' is not a routing table between 1 and 4294967295"),
    (
        fields.parse_routing_table,
        "254",
        "254 is a routing table of the kernel's own (default, main, local)",
    ),
    (fields.parse_interception_mode, "NONE", "'NONE' is neither REDIRECT nor TPROXY"),
    (
        fields.parse_log_level,
        "loud",
        "'loud' is not one of trace, debug, info, warning, warn, error, critical, off",
    ),
    (fields.parse_header, "Bearer é", "a header value must be printable ASCII on one line"),
    (fields.parse_header, "a\nb", "a header value must be printable ASCII on one line"),
    (fields.parse_header_text, "é", "'é' is not printable ASCII on one line"),
    (fields.parser_of({"a": 1, "b": 2}), "c", "'c' is not one of a, b"),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text", "message"), REFUSED)
def test_value_is_refused(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(text)
    assert str(raised.value) == message


def test_single_ports_and_addresses_are_named_and_ranges_are_not() -> None:
    assert lists.parse_port_set("22,8000:8010").named == {22}
    assert list(lists.parse_cidr_set("10.0.0.1,10.0.0.0/8").named(4)) == [0x0A000001]


def test_refused_header_is_not_shown() -> None:
    with pytest.raises(ValueError) as raised:
        fields.parse_header("secret\n")
    assert "secret" not in str(raised.value)
