"""As whom an Envoy without pilot-agent introduces itself to istiod."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from istio_hostagent.config import model
from istio_hostagent.supervise import node

from .test_specs import FACTS, build

ISTIOD = model.Istiod("istiod.istio-system.svc", 15012, "istiod.istio-system.svc")
LABELS = '{"app":"web","istio-locality":"eu.west.a","n":1}'


def made(facts: model.HostFacts = FACTS, **keys: str) -> dict[str, Any]:
    config = build(istiod=ISTIOD, environment=tuple(sorted(keys.items())))
    found = node.build_node(config, facts)
    json.dumps(found)
    return found


def test_it_has_address_name_namespace_and_domain() -> None:
    facts = FACTS._replace(primary_address=ip_address("10.1.0.2"), hostname="vm7")
    found = made(facts)
    namespace = build().identity.namespace
    assert found["id"] == f"sidecar~10.1.0.2~vm7.{namespace}~{namespace}.svc.cluster.local"
    assert found["metadata"]["INSTANCE_IPS"] == "10.1.0.2"
    assert found["metadata"]["NAME"] == "vm7"
    assert found["metadata"]["PILOT_SAN"] == ["istiod.istio-system.svc"]
    assert "locality" not in found


def test_metadata_are_those_of_the_files_as_pilot_agent_makes_them() -> None:
    found = made(
        ISTIO_META_WORKLOAD_NAME="web",
        ISTIO_META_CLUSTER_ID="Kubernetes",
        ISTIO_META_INTERCEPTION_MODE="TPROXY",
        ISTIO_META_AUTO_REGISTER_GROUP="web",
        ISTIO_META_POD_PORTS='[{"containerPort":1}]',
        ISTIO_METAJSON_LABELS=LABELS,
        ISTIO_METAJSON_MORE='{"OWNER":"x","SERVICE_ACCOUNT":"root"}',
        OTHER="y",
    )
    metadata = found["metadata"]
    assert metadata["WORKLOAD_NAME"] == "web"
    assert metadata["CLUSTER_ID"] == "Kubernetes"
    assert metadata["INTERCEPTION_MODE"] == "TPROXY"
    assert metadata["AUTO_REGISTER_GROUP"] == "web"
    assert metadata["POD_PORTS"] == '[{"containerPort":1}]'
    assert metadata["LABELS"] == {"app": "web", "istio-locality": "eu.west.a"}
    assert metadata["OWNER"] == "x"
    # istiod compares it with the certificate.
    assert metadata["SERVICE_ACCOUNT"] == build().identity.service_account
    assert found["locality"] == {"region": "eu", "zone": "west", "sub_zone": "a"}
    assert "OTHER" not in metadata


def test_a_version_is_that_of_the_files_or_none_of_istios() -> None:
    assert made()["metadata"]["ISTIO_VERSION"] == "istio-hostagent"
    assert made(ISTIO_META_ISTIO_VERSION="1.29.1")["metadata"]["ISTIO_VERSION"] == "1.29.1"


def test_of_proxy_config_json_is_told_but_no_probe_that_nobody_makes() -> None:
    text = '{"concurrency":3,"readinessProbe":{"httpGet":{"port":1}},"binaryPath":"/x"}'
    assert made(PROXY_CONFIG=text)["metadata"]["PROXY_CONFIG"] == {"concurrency": 3}
    assert "PROXY_CONFIG" not in made(PROXY_CONFIG="concurrency: 3")["metadata"]


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 10**6], ids=len)
def test_what_is_no_object_of_json_is_left_out(text: str) -> None:
    metadata = made(ISTIO_METAJSON_LABELS=text, PROXY_CONFIG=text)["metadata"]
    assert "LABELS" not in metadata
    assert "PROXY_CONFIG" not in metadata
