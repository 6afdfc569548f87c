"""When an Envoy without pilot-agent has a control plane, and where that is."""

import pytest

from istio_hostagent.config import build, model

FACTS = model.HostFacts(998, 997)
ROOT_ONLY = model.Trust(is_root_only=True)
NAME = "istiod.istio-system.svc"


def outcome(text: str, own: str = "ISTIO_HOSTAGENT_PROXY=envoy\n") -> build.Outcome:
    files = (("/own.env", own), ("/cluster.env", text), ("/sidecar.env", ""))
    layers = [model.Layer(path, data.encode(), ROOT_ONLY) for path, data in files]
    return build.build_config(layers, FACTS)


def found(text: str) -> model.Istiod | None:
    made = outcome(text)
    assert made.config is not None, made.problems
    return made.config.proxy.istiod


DEFAULT = model.Istiod(NAME, 15012, NAME)
FORCED = "ISTIO_HOSTAGENT_CONTROL_PLANE=istiod\n"
OF_ISTIOCTL = "ISTIO_META_WORKLOAD_NAME=web\nISTIO_META_CLUSTER_ID=Kubernetes\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Who only has certificates from istiod has named no control plane.
        ("", None),
        ("CA_ADDR=ca.example:15012", None),
        ("ISTIO_META_CLUSTER_ID=Kubernetes", None),
        (OF_ISTIOCTL, DEFAULT),
        ("ISTIO_META_AUTO_REGISTER_GROUP=web", DEFAULT),
        (FORCED, DEFAULT),
        (f"{OF_ISTIOCTL}ISTIO_HOSTAGENT_CONTROL_PLANE=none", None),
        # Who says what is encrypted goes on saying it.
        (f"{OF_ISTIOCTL}ISTIO_HOSTAGENT_MESH_CIDR=10.0.0.0/8", None),
        (f"{OF_ISTIOCTL}ISTIO_HOSTAGENT_MTLS=strict", None),
        (f"{OF_ISTIOCTL}ISTIO_HOSTAGENT_MTLS=", DEFAULT),
        # A classic CA is no istiod.
        (f"{OF_ISTIOCTL}CITADEL_ADDRESS=istio-citadel:8060", None),
        (f"{FORCED}CITADEL_ADDRESS=istio-citadel:8060", DEFAULT),
        (
            f"{OF_ISTIOCTL}FILE_MOUNTED_CERTS=true\nPROV_CERT=/srv/svid\nTRUST_DOMAIN=x",
            DEFAULT,
        ),
    ],
    ids=str,
)
def test_it_has_one_where_the_files_name_it(text: str, expected: model.Istiod | None) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PILOT_ADDRESS=pilot.example:15012", ("pilot.example", 15012, "pilot.example")),
        ("PILOT_ADDRESS=192.0.2.1:31012", ("192.0.2.1", 31012, NAME)),
        ("PILOT_ADDRESS=[fd00::2]:7\nISTIO_SYSTEM_NAMESPACE=m", ("fd00::2", 7, "istiod.m.svc")),
        ("PILOT_ADDRESS=192.0.2.1:7\nISTIOD_SAN=i.example", ("192.0.2.1", 7, "i.example")),
        ("ISTIO_PILOT_PORT=31012", (NAME, 31012, NAME)),
        # A revision is named by CA_ADDR; another CA is no istiod.
        (
            f"{OF_ISTIOCTL}CA_ADDR=istiod-a.x.svc:15012",
            ("istiod-a.x.svc", 15012, "istiod-a.x.svc"),
        ),
        (f"{OF_ISTIOCTL}CA_ADDR=cert-manager-csr.x.svc:443", (NAME, 15012, NAME)),
        ("CA_ADDR=ca.example:15012\nPILOT_ADDRESS=p.example:1", ("p.example", 1, "p.example")),
        ("PROXY_CONFIG='discoveryAddress: d.example:5'", ("d.example", 5, "d.example")),
        (
            "PROXY_CONFIG='discoveryAddress: d.example:5'\nPILOT_ADDRESS=p.example:1",
            ("d.example", 5, "d.example"),
        ),
    ],
    ids=str,
)
def test_it_is_where_pilot_agent_would_look(text: str, expected: tuple[str, int, str]) -> None:
    assert found(text) == model.Istiod(*expected)


def test_keys_that_istiod_overrides_are_named() -> None:
    made = outcome(f"{FORCED}ISTIO_HOSTAGENT_MTLS=strict\n")
    (warning,) = made.warnings
    assert "ISTIO_HOSTAGENT_MTLS has no effect: istiod says what is encrypted" in warning.message
    assert warning.line == 2
    assert made.config is not None
    assert made.config.redirection.keeps_closed


def test_plain_text_is_never_spoken_and_its_port_named() -> None:
    made = outcome("CA_ADDR=ca.example:15012\nPILOT_ADDRESS=p.example:15010\n")
    (warning,) = made.warnings
    assert "PILOT_ADDRESS: port 15010 speaks plain text" in warning.message


def test_the_port_of_its_metrics_is_its_own() -> None:
    made = outcome(f"{FORCED}ISTIO_HOSTAGENT_STATUS_PORT=15090\n")
    (problem,) = made.problems
    assert "15090 is the port of" in problem.message
    assert outcome("ISTIO_HOSTAGENT_STATUS_PORT=15090\n").problems == ()
