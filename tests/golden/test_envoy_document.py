"""What docs/envoy.md says is what the program does."""

import re
from pathlib import Path

from istio_hostagent.config import build, model, settings
from istio_hostagent.supervise import refusals, truth

DOCUMENT = (Path(__file__).parents[2] / "docs" / "envoy.md").read_text(encoding="utf-8")


def test_its_example_leads_to_istiod_without_a_warning() -> None:
    (text,) = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    trust = model.Trust(is_root_only=True)
    made = build.build_config(
        [model.Layer("/etc/istio-hostagent/hostagent.env", text.encode(), trust)],
        model.HostFacts(998, 997),
    )
    assert (made.problems, made.warnings) == ((), ())
    assert made.config is not None
    name = "istiod.istio-system.svc"
    assert made.config.proxy.istiod == model.Istiod(name, 15012, name)
    assert made.config.proxy.kind is model.ProxyKind.ENVOY


def test_it_names_every_key_that_names_a_control_plane() -> None:
    assert all(f"`{key}`" in DOCUMENT for key in settings.OF_CONTROL_PLANE)
    assert truth.READY_PATH in DOCUMENT
    refused = refusals.Refusal("cluster", "PassthroughCluster", "x for 'istio.metadata_exchange'")
    said = refusals.describe((refused,)).partition(":")[0]
    assert f"Envoy {said}" in DOCUMENT
