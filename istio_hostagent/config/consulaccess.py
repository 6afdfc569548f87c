"""How Consul's API is reached: from the variables that Consul's own tools read, to values.

Source: hashicorp/consul api/api.go, defaultConfig. Not here: what is asked there. Every function
raises ValueError with the sentence that an operator reads.
"""

from collections.abc import Mapping

from . import endpoints, fields, services

VARIABLES = (
    "CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY", "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_AUTH", "CONSUL_CACERT", "CONSUL_CAPATH",
    "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY", "CONSUL_TLS_SERVER_NAME",
)  # fmt: skip


def of_environment(environment: Mapping[str, str]) -> services.Access:
    """What the variables CONSUL_… say.

    >>> of_environment({"CONSUL_HTTP_ADDR": "consul.example:8501", "CONSUL_HTTP_SSL": "true"})[0]
    'https://consul.example:8501'
    """
    access = services.Access(
        address=_parse_address(
            environment.get("CONSUL_HTTP_ADDR", ""),
            is_tls=_truth(environment, "CONSUL_HTTP_SSL", is_default=False),
        ),
        token_file=environment.get("CONSUL_HTTP_TOKEN_FILE", ""),
        token=environment.get("CONSUL_HTTP_TOKEN", ""),
        user=environment.get("CONSUL_HTTP_AUTH", ""),
        roots=environment.get("CONSUL_CACERT", "") or environment.get("CONSUL_CAPATH", ""),
        certificate=environment.get("CONSUL_CLIENT_CERT", ""),
        key=environment.get("CONSUL_CLIENT_KEY", ""),
        server_name=environment.get("CONSUL_TLS_SERVER_NAME", ""),
        is_verified=_truth(environment, "CONSUL_HTTP_SSL_VERIFY", is_default=True),
    )
    if bool(access.certificate) != bool(access.key):
        raise ValueError("CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY belong together")
    return access


def parse_address(text: str) -> str:
    """The address of the API; without a scheme it is plain HTTP.

    >>> parse_address("localhost:8500"), parse_address("unix:///run/consul.sock")
    ('http://localhost:8500', 'unix:///run/consul.sock')
    """
    return _parse_address(text, is_tls=False)


def _parse_address(text: str, *, is_tls: bool) -> str:
    text = fields.parse_text(text) or services.DEFAULT_CONSUL
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme == "unix" and rest.startswith("/"):
        return text
    if scheme not in ("http", "https"):
        raise ValueError(
            f"{fields.show(text)} is not the address of Consul's API, as in"
            f" {services.DEFAULT_CONSUL} or unix:///run/consul.sock"
        )
    host, port = endpoints.parse_host_port(rest.rstrip("/"))
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else scheme}://{host}:{port}"


def _truth(environment: Mapping[str, str], name: str, *, is_default: bool) -> bool:
    text = environment.get(name, "")
    try:
        return fields.parse_bool(text) if text else is_default
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
