"""What keys and words say of services, and of the way to Consul."""

import pytest

from istio_hostagent.config import build, consulaccess, model, registering, services

ROOT = model.Trust(is_root_only=True)
FACTS = model.HostFacts(998, 997)


def build_config(text: str) -> build.Outcome:
    layers = [model.Layer("/own", text.encode(), ROOT)]
    layers += [model.Layer(path, None, ROOT) for path in ("/cluster", "/sidecar")]
    return build.build_config(layers, FACTS)


def registry(text: str) -> services.Registry:
    outcome = build_config(text)
    assert outcome.config is not None, outcome.problems
    return outcome.config.registry


def test_services_have_names_ports_and_labels() -> None:
    found = registry(
        'ISTIO_HOSTAGENT_REGISTER="web=http:8080,9090 mysql=3306"\n'
        "ISTIO_HOSTAGENT_REGISTER_LABELS=version=v1,canary\n"
        "ISTIO_HOSTAGENT_CONSUL=https://consul.example:8501\n"
        "ISTIO_HOSTAGENT_CONSUL_TOKEN_FILE=/etc/consul/token\n"
    )
    labels = (("version", "v1"), ("canary", ""))
    web = (services.Port("http", 8080), services.Port("9090", 9090))
    assert found.services == (
        services.Registration("web", "", web, labels),
        services.Registration("mysql", "", (services.Port("mysql", 3306),), labels),
    )
    assert found.access == services.Access(
        "https://consul.example:8501", token_file="/etc/consul/token"
    )


def test_without_the_keys_nothing_is_registered() -> None:
    assert registry("ISTIO_SERVICE_CIDR=*\n") == services.Registry()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ISTIO_HOSTAGENT_REGISTER=web", "not NAME=PORT"),
        ("ISTIO_HOSTAGENT_REGISTER=web=", "not a port"),
        ("ISTIO_HOSTAGENT_REGISTER=we_b=80", "name of a service"),
        ("ISTIO_HOSTAGENT_REGISTER='a=80 a=81'", "there twice"),
        ("ISTIO_HOSTAGENT_CONSUL=consul", "no port"),
        ("ISTIO_HOSTAGENT_CONSUL=ftp://consul:8500", "not the address of Consul's API"),
        ("ISTIO_HOSTAGENT_CONSUL=http://consul:8500/v1", "not a port"),
        ("ISTIO_HOSTAGENT_CONSUL=unix://relative", "not the address of Consul's API"),
        ("ISTIO_HOSTAGENT_CONSUL_CLIENT_CERT=/x", "needs ISTIO_HOSTAGENT_CONSUL_CLIENT_KEY"),
        ("ISTIO_HOSTAGENT_CONSUL_CLIENT_KEY=/x", "needs ISTIO_HOSTAGENT_CONSUL_CLIENT_CERT"),
    ],
)
def test_a_mistake_is_named_with_its_line(line: str, said: str) -> None:
    [problem] = build_config(f"\n{line}\n").problems
    assert problem.line == 2
    assert said in problem.message


@pytest.mark.parametrize(
    ("port", "name", "protocol"),
    [
        ("80", "http", "http"),
        ("8080", "http", "http"),
        ("443", "https", "https"),
        ("3306", "mysql", "tcp"),
        ("7001", "7001", "tcp"),
        ("grpc-api:7001", "grpc-api", "grpc"),
        ("HTTP2:7001", "HTTP2", "http2"),
        ("web:7001", "web", "tcp"),
    ],
)
def test_a_port_has_a_name_and_the_name_says_the_protocol(
    port: str, name: str, protocol: str
) -> None:
    found = registering.parse_port(port)
    assert (found.name, found.protocol) == (name, protocol)


@pytest.mark.parametrize(
    ("environment", "access"),
    [
        ({}, services.Access("http://127.0.0.1:8500")),
        ({"CONSUL_HTTP_ADDR": "[fd00::1]:8500"}, services.Access("http://[fd00::1]:8500")),
        (
            {"CONSUL_HTTP_ADDR": "http://a:8501", "CONSUL_HTTP_SSL": "1"},
            services.Access("https://a:8501"),
        ),
        (
            {"CONSUL_CAPATH": "/cas", "CONSUL_HTTP_SSL_VERIFY": "false"},
            services.Access(roots="/cas", is_verified=False),
        ),
        (
            {"CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_AUTH": "u:p"},
            services.Access(token="t", user="u:p"),
        ),
    ],
)
def test_consul_is_found_as_its_own_tools_find_it(
    environment: dict[str, str], access: services.Access
) -> None:
    assert consulaccess.of_environment(environment) == access


@pytest.mark.parametrize(
    "environment",
    [
        {"CONSUL_HTTP_SSL": "perhaps"},
        {"CONSUL_CLIENT_CERT": "/x"},
        {"CONSUL_HTTP_ADDR": "http://user@host:8500"},
    ],
)
def test_a_variable_with_a_mistake_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        consulaccess.of_environment(environment)


def test_captured_services_leave_consul_itself_alone() -> None:
    outcome = build_config(
        "ISTIO_HOSTAGENT_CONSUL_CAPTURE=web,db\nISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE=9999\n"
        "ISTIO_OUTBOUND_PORTS=8302\n"
    )
    assert outcome.config is not None, outcome.problems
    assert outcome.config.registry.captured == ("web", "db")
    excluded = outcome.config.redirection.outbound_ports_exclude
    assert excluded.ranges == ((8300, 8300), (8301, 8301), (9999, 9999))


def test_all_services_are_a_star_alone() -> None:
    assert registry("ISTIO_HOSTAGENT_CONSUL_CAPTURE=*\n").captures_all
    [problem] = build_config("ISTIO_HOSTAGENT_CONSUL_CAPTURE=*,web\n").problems
    assert "name of a service" in problem.message
