"""Objects of a cluster with a mesh in it, as istiod and a classic control plane make them."""

import base64
import datetime
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.demo import ca_material

Object = dict[str, Any]
ISTIO = "istio-system"


def namespaced(version: str, kind: str, name: str, namespace: str, **fields: object) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def account(name: str, of: str) -> Object:
    return namespaced("v1", "ServiceAccount", name, of)


def config_map(name: str, of: str, **data: str) -> Object:
    return namespaced("v1", "ConfigMap", name, of, data=data)


def root_config_map(of: str, pem: str) -> Object:
    return config_map("istio-ca-root-cert", of, **{"root-cert.pem": pem})


def injector(name: str = "istio-sidecar-injector", cluster: str = "Kubernetes") -> Object:
    values = {"global": {"multiCluster": {"clusterName": cluster}}}
    return config_map(name, ISTIO, values=json.dumps(values), config="")


def service(name: str, of: str, *ports: int, address: str = "", host: str = "") -> Object:
    spec = {
        "type": "LoadBalancer",
        "ports": [{"port": port, "name": f"p{port}"} for port in ports],
    }
    made = namespaced("v1", "Service", name, of, spec=spec)
    entry = {"ip": address} if address else {"hostname": host} if host else None
    if entry:
        made["status"] = {"loadBalancer": {"ingress": [entry]}}
    return made


def group(name: str, of: str, **spec: object) -> Object:
    return namespaced("networking.istio.io/v1", "WorkloadGroup", name, of, spec=spec)


def machine_secret(
    name: str, of: str, *, life: datetime.timedelta = datetime.timedelta(days=1), **instead: bytes
) -> Object:
    """What Citadel keeps for an account: RSA key in PKCS#1, certificate, root."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    root = ca_material.new_root("Citadel", now)
    key = rsa.generate_private_key(65537, 2048)
    uri = x509.UniformResourceIdentifier(f"spiffe://cluster.local/ns/{of}/sa/default")
    certificate = (
        x509.CertificateBuilder(root.certificate.subject, x509.Name([]), key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    files = {
        "root-cert.pem": root.pem,
        "cert-chain.pem": certificate.public_bytes(serialization.Encoding.PEM),
        "key.pem": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    }
    files |= {key.replace("_", "-", 1) + ".pem": data for key, data in instead.items()}
    data = {file: base64.b64encode(each).decode() for file, each in files.items()}
    return namespaced("v1", "Secret", name, of, type="istio.io/key-and-cert", data=data)
