"""The laboratory's API server is a real one: it keeps, refuses and signs."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import cluster as clusters
from tests.lab.cluster import ApiError, Cluster
from tests.peers import build

ACCOUNTS = "/api/v1/namespaces/vm/serviceaccounts"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Cluster]:
    with clusters.needed(build.directory("kubernetes"), tmp_path) as cluster:
        cluster.create(clusters.namespace_object("vm"))
        yield cluster


def test_it_signs_tokens_of_service_accounts(api: Cluster) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}}
    api.request("POST", ACCOUNTS, account)
    spec = {"audiences": ["istio-ca"], "expirationSeconds": 3600}
    wanted = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": spec,
    }
    token = api.request("POST", f"{ACCOUNTS}/web/token", wanted)["status"]["token"]
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert (claims["iss"], claims["aud"]) == (clusters.ISSUER, ["istio-ca"])
    assert claims["sub"] == "system:serviceaccount:vm:web"


def test_what_it_holds_outlives_a_crash(api: Cluster) -> None:
    api.kill()
    api.start()
    assert api.request("GET", "/api/v1/namespaces/vm")["metadata"]["name"] == "vm"


def test_an_object_that_has_changed_is_not_replaced(api: Cluster) -> None:
    path = "/api/v1/namespaces/vm"
    first = api.request("GET", path)
    api.request("PUT", path, {**first, "metadata": {**first["metadata"], "labels": {"a": "b"}}})
    with pytest.raises(ApiError) as caught:
        api.request("PUT", path, first)
    assert caught.value.status == 409
