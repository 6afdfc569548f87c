"""The keys that say who this host is, and where and how it gets a certificate that says so.

Rows of the table in `settings`, which has the others and the rules for all of them.
"""

from . import endpoints, fields, identityfields, model, outputfields
from .setting import Setting

CA_ADDR = Setting(
    "CA_ADDR",
    endpoints.parse_host_port,
    "<PILOT_ADDRESS>",
    "Where certificates are asked for: host:port. Over TLS, but for port 15010, which sends the "
    "token in clear.",
)
ISTIO_CA = Setting(
    "ISTIO_CA",
    endpoints.parse_host_port,
    "<PILOT_ADDRESS>",
    "Used when CA_ADDR is not set (the name in Istio 1.5).",
)
CITADEL_ADDRESS = Setting(
    "CITADEL_ADDRESS",
    endpoints.parse_host_port,
    "<PILOT_ADDRESS>",
    "Used when none of CA_ADDR and ISTIO_CA is set (the name in Istio 1.0): a classic CA. Without "
    "effect where PILOT_ADDRESS is that of an istiod, and not of a Pilot (port 15011, 15005, "
    "15003 or 8080, or a host istio-pilot).",
    was_without_effect=True,
)
CA_PROTOCOL = Setting(
    "ISTIO_HOSTAGENT_CA_PROTOCOL",
    identityfields.parse_ca_protocol,
    "auto",
    "How certificates are asked for: istiod (Istio 1.1 and later), citadel (0.2 to 1.0), or auto: "
    "as the address suggests, and the other way where the CA does not know that one.",
)
ISTIOD_SAN = Setting(
    "ISTIOD_SAN",
    endpoints.parse_optional_host,
    "",
    "The name that the CA's certificate must carry. Empty: the host of CA_ADDR, or"
    " where that is an address or has localhost in it: istiod.<ISTIO_SYSTEM_NAMESPACE>.svc for"
    " istiod, istio-citadel for a classic CA.",
)
TRUST_DOMAIN = Setting(
    "TRUST_DOMAIN",
    fields.parse_trust_domain,
    "cluster.local",
    "The trust domain of this host's identity.",
)
NAMESPACE = Setting(
    "ISTIO_NAMESPACE",
    fields.parse_namespace,
    "default",
    "The namespace of this host's workload.",
)
POD_NAMESPACE = Setting(
    "POD_NAMESPACE",
    fields.parse_namespace,
    "default",
    "Used when ISTIO_NAMESPACE is not set.",
)
SERVICE_ACCOUNT = Setting(
    "SERVICE_ACCOUNT",
    fields.parse_kubernetes_name,
    "default",
    "The service account of this host's identity.",
)
CLUSTER_ID = Setting(
    "ISTIO_META_CLUSTER_ID",
    fields.parse_header_text,
    "",
    "The cluster this host belongs to, as the control plane names it.",
)
TOKEN_FILE = Setting(
    "ISTIO_HOSTAGENT_TOKEN_FILE",
    fields.parse_path,
    "/var/run/secrets/tokens/istio-token",
    "The bootstrap token, read at each use by user istio-proxy.",
)
TOKEN_COMMAND = Setting(
    "ISTIO_HOSTAGENT_TOKEN_COMMAND",
    identityfields.parse_command,
    "",
    "A command that prints a token, or JSON with one, and is run by user istio-proxy at each use: "
    "an absolute path and its arguments, in quotes as in a shell.",
    is_guarded=True,
)
CREDENTIAL_FETCHER = Setting(
    "CREDENTIAL_FETCHER_TYPE",
    identityfields.parse_fetcher,
    "JWT",
    "Where a token comes from: JWT for the file or command, GoogleComputeEngine for the metadata "
    "server of Google's machines, then the file.",
    was_without_effect=True,
)
CITADEL_ENV = Setting(
    "CITADEL_ENV",
    identityfields.parse_platform,
    "onprem",
    "What is shown to a classic CA beside certificates: onprem for nothing, gcp or aws for the "
    "identity document of the cloud's metadata server (flag --env of the classic node agent).",
    was_without_effect=True,
)
METADATA_HOST = Setting(
    "GCE_METADATA_HOST",
    identityfields.parse_metadata_host,
    "169.254.169.254",
    "The metadata server, as an address or name with a port if it is not 80.",
    is_guarded=True,
    was_without_effect=True,
)
PROV_CERT = Setting(
    "PROV_CERT",
    fields.parse_path,
    "/etc/certs",
    "The directory in which root-cert.pem was put for the first contact with the CA, and maybe "
    "key.pem and cert-chain.pem of a certificate with which to ask it.",
)
FILE_MOUNTED_CERTS = Setting(
    "FILE_MOUNTED_CERTS",
    fields.parse_bool,
    "false",
    "Set to true where somebody else renews key.pem, cert-chain.pem and root-cert.pem in "
    "PROV_CERT: no CA is asked. The user istio-proxy must be able to read them.",
    was_without_effect=True,
)
SOCKET_FILE = Setting(
    "WORKLOAD_IDENTITY_SOCKET_FILE",
    identityfields.parse_socket_file,
    "",
    "The socket of another agent (SPIRE's, or Istio's) whose secret server (Envoy's SDS) gives "
    "key, certificate and roots: no CA is asked. A path, or a name in "
    "/run/secrets/workload-spiffe-uds; the name socket alone, which is Istio's default, is none.",
    was_without_effect=True,
)
ENDPOINT_SOCKET = Setting(
    "SPIFFE_ENDPOINT_SOCKET",
    identityfields.parse_endpoint,
    "",
    "The socket of another agent (SPIRE's) whose SPIFFE Workload API gives key, certificate and "
    "roots: no CA is asked. As SPIFFE writes it, unix:///PATH.",
    was_without_effect=True,
)
CA_ROOT_CA = Setting(
    "CA_ROOT_CA",
    fields.parse_root_file,
    "<PROV_CERT>/root-cert.pem",
    "The roots trusted for the first contact with the CA: a PEM file, or SYSTEM for the "
    "operating system's store; then the CA names the roots of the mesh itself.",
)
OUTPUT_CERTS = Setting(
    "OUTPUT_CERTS",
    fields.parse_path,
    "/etc/certs",
    "The directory that gets key.pem, cert-chain.pem and root-cert.pem. Without it an agent with "
    "a name, or with another STATE_DIRECTORY than the host's own, uses certificate in there.",
    is_guarded=True,
    is_proxys=True,
)
CERTS_DIR = Setting(
    "CERTS_DIR",
    fields.parse_path,
    "/etc/certs",
    "Used when OUTPUT_CERTS is not set (the name in Istio 1.0).",
    is_guarded=True,
    is_proxys=True,
)
SECRET_TTL = Setting(
    "SECRET_TTL",
    fields.parse_ttl,
    "24h",
    "The certificate life asked for, at most 2160h.",
)
GRACE_RATIO = Setting(
    "SECRET_GRACE_PERIOD_RATIO",
    fields.parse_ratio,
    "0.5",
    "The certificate is renewed when this fraction of its life is left.",
)
GRACE_JITTER = Setting(
    "SECRET_GRACE_PERIOD_RATIO_JITTER",
    fields.parse_jitter,
    "0.05",
    "By how much that fraction is made larger or smaller by chance at each renewal, so that hosts "
    "started together do not ask together, but never more than half way to 0 or 1 (Istio's own "
    "default is 0.01). 0: not at all.",
    was_without_effect=True,
)
ECC_ALGORITHM = Setting(
    "ECC_SIGNATURE_ALGORITHM",
    identityfields.parse_ecc_algorithm,
    "",
    "ECDSA for keys of the curve ECC_CURVE. Empty: by WORKLOAD_RSA_KEY_SIZE, else EC P-256 for "
    "istiod and RSA with 2048 bits for a classic CA.",
    was_without_effect=True,
)
ECC_CURVE = Setting(
    "ECC_CURVE",
    identityfields.named({"P256": model.KeyKind.EC_P256, "P384": model.KeyKind.EC_P384}),
    "P256",
    "The curve of the key with ECC_SIGNATURE_ALGORITHM=ECDSA: P256 or P384.",
    was_without_effect=True,
)
RSA_KEY_SIZE = Setting(
    "WORKLOAD_RSA_KEY_SIZE",
    identityfields.parse_rsa_size,
    "",
    "Bits of an RSA key: 2048, 3072 or 4096. Without effect beside ECC_SIGNATURE_ALGORITHM.",
    was_without_effect=True,
)
PKCS8_KEY = Setting(
    "PKCS8_KEY",
    identityfields.parse_optional_bool,
    "",
    "How key.pem is written: true for PKCS#8, false for the older layout (PKCS#1, SEC 1). Empty: "
    "the older one for a classic CA, whose programs may read no other.",
    was_without_effect=True,
)

OUTPUTS = Setting(
    "ISTIO_HOSTAGENT_OUTPUTS",
    outputfields.parse_outputs,
    "",
    "Further places that get the certificate after each renewal, between blanks: files:DIRECTORY "
    "for key.pem, cert-chain.pem and root-cert.pem, pem:FILE for key and chain in one, or "
    "pkcs12:FILE. Behind each, with commas: owner=, group=, mode= of what has the key (0600, or "
    "0640 with a group), password-file= for pkcs12.",
    is_guarded=True,
)
RENEW_HOOK = Setting(
    "ISTIO_HOSTAGENT_RENEW_HOOK",
    outputfields.parse_hook,
    "",
    "What is done after each renewal: a command, run by user istio-proxy for at most 60 s (an "
    "absolute path and its arguments, in quotes as in a shell), or units that systemctl reloads: "
    "unit:nginx.service.",
    is_guarded=True,
)

ROWS: tuple[Setting[object], ...] = (
    CA_ADDR, ISTIO_CA, CITADEL_ADDRESS, CA_PROTOCOL, ISTIOD_SAN, TRUST_DOMAIN, NAMESPACE,
    POD_NAMESPACE, SERVICE_ACCOUNT, CLUSTER_ID, TOKEN_FILE, TOKEN_COMMAND, CREDENTIAL_FETCHER,
    CITADEL_ENV, METADATA_HOST, PROV_CERT, FILE_MOUNTED_CERTS, SOCKET_FILE, ENDPOINT_SOCKET,
    CA_ROOT_CA,
    OUTPUT_CERTS, CERTS_DIR, OUTPUTS, RENEW_HOOK, SECRET_TTL, GRACE_RATIO, GRACE_JITTER,
    ECC_ALGORITHM, ECC_CURVE, RSA_KEY_SIZE, PKCS8_KEY,
)  # fmt: skip

# The key that stands in where the first one is not set; both are of one kind.
FALLBACKS = {
    CA_ADDR.key: ISTIO_CA.key,
    ISTIO_CA.key: CITADEL_ADDRESS.key,
    NAMESPACE.key: POD_NAMESPACE.key,
    OUTPUT_CERTS.key: CERTS_DIR.key,
}

# A family: the rest of the key is the name of the header.
CA_HEADER = Setting(
    "CA_HEADER_", fields.parse_header, "", "A further header of requests to the CA."
)
