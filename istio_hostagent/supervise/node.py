"""As whom Envoy introduces itself to istiod: node id, cluster, locality and metadata.

What pilot-agent makes of the same environment (istio/istio pkg/bootstrap/config.go,
GetNodeMetaData), as far as it concerns a host. Not here: what stands on a host for Kubernetes
alone (the files below /etc/istio/pod) and what the clouds say.
Always: whoever promises a readiness probe must report what came of it, and nobody here does; so
istiod is not told of one.
"""

import json
from collections.abc import Mapping

from ..config import model
from . import message

_META, _META_JSON = "ISTIO_META_", "ISTIO_METAJSON_"
_LABELS = f"{_META_JSON}LABELS"
_LOCALITY = "istio-locality"
_PROBE = "readinessProbe"
# istiod makes for what is no version what the newest proxies take, and warns of none at all.
_VERSION = "istio-hostagent"
# Of ProxyConfig: what Envoy without pilot-agent does not do.
_WITHOUT_EFFECT = (_PROBE, "binaryPath", "configPath", "customConfigFile")


def build_node(config: model.Config, facts: model.HostFacts) -> message.Json:
    """Return the node."""
    identity, proxy = config.identity, config.proxy
    name = proxy.workload_name or facts.hostname
    metadata = _build_metadata(config, facts, name)
    domain = f"{identity.namespace}.svc.cluster.local"
    node: message.Json = {
        "id": f"sidecar~{_address(config, facts)}~{name}.{identity.namespace}~{domain}",
        "cluster": proxy.service_cluster,
        "metadata": metadata,
    }
    labels = metadata.get("LABELS")
    if isinstance(labels, dict) and (text := labels.get(_LOCALITY)):
        # A label has no slashes.
        parts = (text if "/" in text else text.replace(".", "/")).split("/")
        node["locality"] = dict(zip(("region", "zone", "sub_zone"), parts, strict=False))
    return node


def _address(config: model.Config, facts: model.HostFacts) -> str:
    own = facts.primary_address or next(iter(facts.addresses), None)
    address = config.proxy.instance_ip or own
    # istiod refuses a node without an address, and this one reaches nothing anyway.
    return str(address) if address is not None else "127.0.0.1"


def _build_metadata(config: model.Config, facts: model.HostFacts, name: str) -> message.Json:
    identity, proxy = config.identity, config.proxy
    environment = dict(proxy.environment)
    found: message.Json = {"ISTIO_VERSION": _VERSION}
    for key, value in sorted(environment.items()):
        if key.startswith(_META) and len(key) > len(_META):
            found[key.removeprefix(_META)] = value
    for key, value in sorted(environment.items()):
        if key.startswith(_META_JSON):
            found.update(_read_object(value))
    if labels := _read_texts(environment.get(_LABELS, "")):
        found["LABELS"] = found["STATIC_LABELS"] = labels
    if settings := _read_object(environment.get("PROXY_CONFIG", "")):
        found["PROXY_CONFIG"] = {
            key: value for key, value in settings.items() if key not in _WITHOUT_EFFECT
        }
    assert proxy.istiod is not None
    return found | {
        "NAME": name,
        "NAMESPACE": identity.namespace,
        "SERVICE_ACCOUNT": identity.service_account,
        "INSTANCE_IPS": _address(config, facts),
        "PILOT_SAN": [proxy.istiod.server_name],
        "ENVOY_STATUS_PORT": proxy.status_port,
        "ENVOY_PROMETHEUS_PORT": proxy.prometheus_port,
    }


def _read_object(text: str) -> message.Json:
    """An object of JSON; anything else is left out, as pilot-agent does it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_texts(text: str) -> Mapping[str, str]:
    """An object that has nothing but texts, which is what labels are."""
    value = _read_object(text)
    return {key: each for key, each in value.items() if isinstance(each, str)}
