"""What the certificate worker is asked, and what it may show to the CA."""

from dataclasses import dataclass, field

from ...host import ca
from ...identity.protocols import messages


@dataclass(frozen=True)
class Request:
    """What is asked of the process; the fields are the keys of the input.

    `named_parts`: which of "trust_domain", "namespace" and "service_account" of `spiffe_id` an
    operator has set; the others are defaults. `protocols`: names of those to try, in this order;
    `server_names`: the name that the CA's certificate must carry with each, else `server_name`.
    `mounted_dir`, `secret_source`: the directory, or the socket of a secret server, from which
    what somebody else renews comes; no CA is asked then. `is_workload_api`: that server speaks
    SPIFFE's Workload API, not secret discovery.
    """

    op: str
    output_dir: str
    store_dir: str
    spiffe_id: str = ""
    named_parts: tuple[str, ...] = ("trust_domain", "namespace", "service_account")
    ca_host: str = ""
    ca_port: int = 0
    server_name: str = ""
    server_names: tuple[str, ...] = ()
    cluster_id: str = ""
    protocols: tuple[str, ...] = ("istiod",)
    token_file: str = ""
    token_command: tuple[str, ...] = ()
    metadata_kind: str = ""
    metadata_address: str = ""
    provisioned_dir: str = ""
    mounted_dir: str = ""
    secret_source: str = ""
    is_workload_api: bool = False
    root_file: str = ""
    has_public_roots: bool = False
    key_kind: str = ""
    is_key_traditional: bool | None = None
    ttl_s: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    grace_ratio: float = 0.5

    @property
    def is_renewed_elsewhere(self) -> bool:
        """Whether somebody else renews the certificate."""
        return bool(self.mounted_dir or self.secret_source)


@dataclass(frozen=True)
class Candidate:
    """A credential to try, or the reason why there is none.

    `via`: its name in the answer. `shown`: what the message says beside it, where a protocol has
    room for that. `until`: unix seconds, None where that is not known. `explanation`: what a
    refusal may be about, read from the credential itself.
    """

    via: str
    credential: ca.Credential | None
    reason: str = ""
    shown: messages.Shown = field(default_factory=messages.Shown)
    until: float | None = None
    explanation: str = ""
