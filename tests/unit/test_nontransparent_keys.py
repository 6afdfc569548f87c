"""Keys of the non-transparent mode: what they come to, and what is refused with file and line."""

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from istio_hostagent.config import build, direct, encryption, model
from istio_hostagent.errors import Problem

FACTS = model.HostFacts(998, 997, addresses=(ip_address("10.1.0.2"),))
FILE = "/etc/istio-hostagent/hostagent.env"
NONE = "ISTIO_HOSTAGENT_REDIRECT=none\n"


def build_config(text: str, facts: model.HostFacts = FACTS) -> build.Outcome:
    return build.build_config([model.Layer(FILE, text.encode(), model.Trust(True))], facts)


def config_of(text: str) -> model.Config:
    outcome = build_config(text)
    assert outcome.config is not None, outcome.problems
    return outcome.config


def problem_of(text: str, facts: model.HostFacts = FACTS) -> Problem:
    outcome = build_config(text, facts)
    assert outcome.config is None
    (found,) = outcome.problems
    return found


def test_nothing_is_captured_whatever_else_the_files_say() -> None:
    text = "ISTIO_SERVICE_CIDR=*\nISTIO_META_DNS_CAPTURE=true\nISTIO_INBOUND_PORTS=8080\n"
    config = config_of(f"{NONE}{text}ISTIO_LOCAL_EXCLUDE_PORTS=8081\n")
    redirection = config.redirection
    assert (redirection.is_none, redirection.captures) == (True, False)
    assert (redirection.capture_ports, redirection.answer_ports) == ((), ())
    assert config.proxy.direct.inbound == (direct.Inbound(8080, "127.0.0.1", 8080),)
    assert config.proxy.kind is model.ProxyKind.AUTO


def test_each_way_is_read_and_leaves_no_choice_but_envoy() -> None:
    config = config_of(
        f"{NONE}ISTIO_HOSTAGENT_UPSTREAMS=8001=mysql.onprem:3306,8002=[FD00::1]:80\n"
        "ISTIO_HOSTAGENT_INBOUND=8443=8080,3306=10.0.0.9:3307,9000\n"
        "ISTIO_HOSTAGENT_HTTP_PORT=15080\nISTIO_HOSTAGENT_PLAIN=fd00::1,*.Debian.org.\n"
    )
    made = config.proxy.direct
    assert made.upstreams == (
        direct.Upstream(8001, "mysql.onprem", 3306),
        direct.Upstream(8002, "fd00::1", 80, is_plain=True),
    )
    assert [each.is_beside for each in made.inbound] == [False, False, True]
    assert made.inbound[1] == direct.Inbound(3306, "10.0.0.9", 3307)
    assert (made.http_port, made.plain) == (15080, ("fd00::1", "*.debian.org"))
    assert config.proxy.kind is model.ProxyKind.ENVOY
    assert ("ISTIO_META_INTERCEPTION_MODE", "NONE") in config.proxy.environment


@pytest.mark.parametrize(
    ("plain", "host", "is_plain"),
    [
        ("db.example", "DB.example.", True),
        ("*.example", "a.b.example", True),
        ("*.example", "example", False),
        ("*", "10.0.0.7", True),
        ("10.0.0.8", "10.0.0.7", False),
    ],
)
def test_hosts_that_are_not_in_the_mesh(plain: str, host: str, is_plain: bool) -> None:
    text = f"{NONE}ISTIO_HOSTAGENT_UPSTREAMS=8001={host}:80\nISTIO_HOSTAGENT_PLAIN={plain}\n"
    assert config_of(text).proxy.direct.upstreams[0].is_plain is is_plain


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ISTIO_HOSTAGENT_REDIRECT=no", "'no' is not one of rules, none"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001", "is not PORT=HOST:PORT"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=db", "has no port"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=db:0", "'0' is not a port"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=70000=db:80", "'70000' is not a port"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=a:1,8001=b:2", "port 8001 stands there twice"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=http://db:80", "without a scheme"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=fd00::1:80", "[address]:port for IPv6"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=8001=localhost:8001", "localhost:8001 is a port of the proxy"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=22=db:22", "22 is the port on which sshd listens"),
        ("ISTIO_HOSTAGENT_UPSTREAMS=15021=db:22", "15021 is the port of "),
        ("ISTIO_HOSTAGENT_INBOUND=8443=", "'' is not a port"),
        ("ISTIO_HOSTAGENT_INBOUND=x", "'x' is not a port"),
        ("ISTIO_HOSTAGENT_INBOUND=8443=app:80", "'app' is not an address"),
        ("ISTIO_HOSTAGENT_INBOUND=8443=10.1.0.2:8443", "10.1.0.2:8443 is a port of the proxy"),
        ("ISTIO_HOSTAGENT_INBOUND=8443=9000,9001=8443", "127.0.0.1:8443 is a port of the proxy"),
        ("ISTIO_HOSTAGENT_HTTP_PORT=-1", "'-1' is not a port"),
        ("ISTIO_HOSTAGENT_HTTP_PORT=15021", "15021 is the port of "),
        ("ISTIO_HOSTAGENT_PLAIN=*,db", "`*` means every host"),
        ("ISTIO_HOSTAGENT_PLAIN=*.10.0.0.1", "a pattern of names with an address in it"),
        ("ISTIO_HOSTAGENT_PLAIN=a_/b", "neither a host name nor an address"),
        ("ISTIO_INBOUND_PORTS=*", "names no single port"),
        ("ISTIO_INBOUND_PORTS=80:90", "names no single port"),
        ("ISTIO_META_INTERCEPTION_MODE=REDIRECT", "both must be the same"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(line: str, said: str) -> None:
    found = problem_of(f"{NONE}{line}\n")
    assert (found.file, found.line) == (FILE, 2)
    assert said in found.message
    assert found.message.startswith(line.partition("=")[0])


def test_two_keys_with_one_port_name_each_other() -> None:
    found = problem_of(
        f"{NONE}ISTIO_HOSTAGENT_UPSTREAMS=8001=db:80\nISTIO_HOSTAGENT_INBOUND=8001=8080\n"
    )
    assert (found.line, "8001 is the port of ISTIO_HOSTAGENT_UPSTREAMS") == (
        3,
        found.message.removeprefix("ISTIO_HOSTAGENT_INBOUND: ").partition(" (")[0],
    )


def test_pilot_agent_is_told_by_its_control_plane() -> None:
    found = problem_of(
        f"{NONE}ISTIO_HOSTAGENT_PROXY=pilot-agent\nISTIO_HOSTAGENT_UPSTREAMS=8001=db:80\n"
    )
    assert (found.line, "_PROXY is pilot-agent" in found.message) == (3, True)
    config = config_of(f"{NONE}ISTIO_HOSTAGENT_PROXY=pilot-agent\nISTIO_INBOUND_PORTS=*\n")
    assert not config.proxy.direct


def test_without_none_the_keys_are_named_as_without_effect() -> None:
    outcome = build_config("ISTIO_HOSTAGENT_HTTP_PORT=15080\n")
    message = "ISTIO_HOSTAGENT_HTTP_PORT has no effect without ISTIO_HOSTAGENT_REDIRECT=none"
    assert Problem(FILE, 1, message) in outcome.warnings
    assert outcome.config is not None and not outcome.config.proxy.direct


def test_a_proxy_that_would_have_nothing_to_do_is_a_warning() -> None:
    outcome = build_config(f"{NONE}ISTIO_HOSTAGENT_PROXY=envoy\n")
    (found,) = outcome.warnings
    assert found.message.startswith("nothing goes through the proxy")


def test_an_instance_has_no_rules_and_a_certificate_of_its_own() -> None:
    facts = FACTS._replace(instance="web", state_dir="/var/lib/istio-hostagent/web")
    found = problem_of("ISTIO_SERVICE_CIDR=*\n", facts)
    assert "instance web needs ISTIO_HOSTAGENT_REDIRECT=none" in found.message
    outcome = build_config(f"{NONE}ISTIO_HOSTAGENT_HTTP_PORT=15080\n", facts)
    assert outcome.config is not None
    assert outcome.config.identity.output_dir == "/var/lib/istio-hostagent/web/certificate"
    (row,) = (each for each in outcome.values if each.key == "OUTPUT_CERTS")
    assert row.text == "/var/lib/istio-hostagent/web/certificate"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "/run/istio-hostagent/a1/state/certificate"),
        ("OUTPUT_CERTS=/srv/c\n", "/srv/c"),
        ("CERTS_DIR=/srv/c\n", "/srv/c"),
    ],
)
def test_an_agent_whose_state_is_elsewhere_has_its_certificate_there(
    text: str, expected: str
) -> None:
    facts = FACTS._replace(state_dir="/run/istio-hostagent/a1/state")
    outcome = build_config(text, facts)
    assert outcome.config is not None
    assert outcome.config.identity.output_dir == expected


def test_the_example_of_the_document_is_a_configuration() -> None:
    document = Path(__file__).parents[2] / "docs" / "non-transparent.md"
    (text,) = re.findall(r"```env\n(.*?)```", document.read_text(), re.DOTALL)
    outcome = build_config(text)
    assert outcome.config is not None and outcome.warnings == ()
    assert len(outcome.config.proxy.direct.upstreams) == 2


def test_what_is_encrypted_is_said() -> None:
    text = "ISTIO_HOSTAGENT_UPSTREAMS=8001=db:80,8002=web:80\nISTIO_HOSTAGENT_PLAIN=web\n"
    config = config_of(f"{NONE}{text}ISTIO_HOSTAGENT_INBOUND=8443=8080\n")
    said = encryption.describe(config, model.ProxyKind.ENVOY)
    assert said == (
        "what comes at 8001 is encrypted (mutual TLS); what comes at 8002 is not encrypted"
        " (ISTIO_HOSTAGENT_PLAIN); plain text is accepted on ports 8443"
        " (ISTIO_HOSTAGENT_MTLS=permissive)"
    )
