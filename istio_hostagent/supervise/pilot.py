"""The environment and the tree that pilot-agent of today's generation finds.

Not here: older generations, and how a process is started.
Always: it gets our certificate and asks no CA for one of its own, so the host has one identity. It
learns this by finding three files below its working directory, plus PROV_CERT naming the same
directory and an empty OUTPUT_CERTS (with a directory there it would write certificates itself).
"""

from ..config import model, settings
from . import proxyconfig

# Where it looks for certificates made by others; the path is fixed in its source.
CREDENTIALS = "./var/run/secrets/workload-spiffe-credentials"

# Where it serves secrets to its Envoy, unless a server is there already that does.
_SOCKETS = "var/run/secrets/workload-spiffe-uds"
# What it writes: the generated bootstrap and its sockets. Their parents stay root's, as our links
# lie in them.
_DIRECTORIES = ("etc/istio/proxy",)

# Ours alone, or with a meaning for the one who starts it only.
_NOT_PASSED_ON = ("ISTIO_HOSTAGENT_", "LD_")


def directories(proxy: model.ProxySettings) -> tuple[str, ...]:
    """Return the directories in which it writes.

    With a secret server the one of its own socket is not among them: whatever it thinks of that
    server, it cannot put another one in its place.
    """
    if proxy.secret_socket is None:
        return (*_DIRECTORIES, _SOCKETS)
    return (*_DIRECTORIES, "var/run/secrets/credential-uds")


def build_links(config: model.Config) -> tuple[tuple[str, str], ...]:
    """Return the links of the private tree: the operator's files, and our certificates.

    The credentials are one link to a directory, not three to files: pilot-agent watches the
    directory, and only there does it see the swap of `..data`. With a secret server these are
    for its own connection to the control plane.
    """
    server = config.proxy.secret_socket
    return (
        ("etc/istio/config/mesh", "/etc/istio/config/mesh"),
        ("etc/istio/pod", "/etc/istio/pod"),
        (
            "var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
            "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json",
        ),
        (CREDENTIALS.removeprefix("./"), config.identity.output_dir),
        *(((f"{_SOCKETS}/socket", server),) if server is not None else ()),
    )


def build_environment(
    config: model.Config, facts: model.HostFacts, directory: str
) -> tuple[tuple[str, str], ...]:
    """Return every key of the files and what Istio's start script adds, sorted by name."""
    identity, proxy = config.identity, config.proxy
    written = {
        key: value for key, value in proxy.environment if not key.startswith(_NOT_PASSED_ON)
    }
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": directory,
        # Otherwise it asks the metadata services of three clouds and waits up to 5 s for them.
        "CLOUD_PLATFORM": "none",
        "CA_ADDR": _host_port(identity.ca_host, identity.ca_port),
        **written,
        "ENVOY_STATUS_PORT": str(proxy.status_port),
        "POD_NAME": proxy.workload_name or facts.hostname,
        "POD_NAMESPACE": identity.namespace,
        "SERVICE_ACCOUNT": identity.service_account,
        "TRUST_DOMAIN": identity.trust_domain,
        "PROXY_CONFIG": _proxy_config(written, proxy),
        # Without it, the root is looked for in places where an operator's own file would win.
        "XDS_ROOT_CA": proxy.discovery_root or f"{CREDENTIALS}/root-cert.pem",
        "PROV_CERT": CREDENTIALS,
        "OUTPUT_CERTS": "",
    }
    # With it, pilot-agent takes certificates from other places than the one named here.
    environment.pop("FILE_MOUNTED_CERTS", None)
    # The name of a secret server's socket, which here is always at the same place.
    environment.pop("WORKLOAD_IDENTITY_SOCKET_FILE", None)
    own = facts.primary_address or next(iter(facts.addresses), None)
    address = proxy.instance_ip or own
    if address is not None:
        environment["INSTANCE_IP"] = str(address)
    return tuple(sorted(environment.items()))


def _proxy_config(written: dict[str, str], proxy: model.ProxySettings) -> str:
    # As Istio's start script composes it: a control plane named by address is added to the
    # operator's text, or stands alone; otherwise that text, or a default of two lines. A key that
    # the operator wrote there stays his.
    text = written.get("PROXY_CONFIG", "")
    added = {}
    if written.get("PILOT_ADDRESS") or written.get("ISTIO_PILOT_PORT"):
        added["discoveryAddress"] = proxy.discovery_address
    elif not text:
        added["serviceCluster"] = proxy.service_cluster
        policies = filter(None, map(written.get, settings.AUTH_POLICY))
        added["controlPlaneAuthPolicy"] = next(policies, "MUTUAL_TLS")
    if proxy.envoy is not None:
        added["binaryPath"] = proxy.envoy
    return proxyconfig.add(text, added)


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
