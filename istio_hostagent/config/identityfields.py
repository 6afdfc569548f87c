"""The text of a key to a value, for keys of identity that no other key is like.

Not here: texts that several kinds of keys have (`fields`). Everything raises ValueError with the
sentence that an operator reads.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import TypeVar

from . import endpoints, fields, model

_AUTO = "auto"
# Where Istio's agent looks for a socket by its name, and the name of its own (istio/istio
# pkg/security).
_SOCKETS, _ISTIOS_OWN = "/run/secrets/workload-spiffe-uds", "socket"
_Choice = TypeVar("_Choice")


def named(choices: Mapping[str, _Choice]) -> Callable[[str], _Choice]:
    """A parser for one of several words, shown as they are written, read in any case."""
    by_word = {word.lower(): value for word, value in choices.items()}

    def parse(text: str) -> _Choice:
        try:
            return by_word[text.strip().lower()]
        except KeyError:
            raise ValueError(f"{fields.show(text)} is not one of {', '.join(choices)}") from None

    return parse


def parse_ca_protocol(text: str) -> model.CaProtocol | None:
    """A protocol, or None where the CA is to be asked which one it speaks."""
    choices = {_AUTO: None, **{each.value: each for each in model.CaProtocol}}
    return named(choices)(text)


def parse_command(text: str) -> tuple[str, ...]:
    """Words of a command line, the first an absolute path; the empty text is no command.

    >>> parse_command("/usr/bin/vault read 'a b'")
    ('/usr/bin/vault', 'read', 'a b')
    """
    try:
        words = tuple(shlex.split(fields.parse_text(text)))
    except ValueError as error:
        raise ValueError(f"the command has {str(error).lower()}") from error
    if words and not words[0].startswith("/"):
        raise ValueError(f"{fields.show(words[0])} is not an absolute path to a program")
    return words


def parse_socket_file(text: str) -> str:
    """The path of a socket, also where it is named as Istio does it; the empty text is none.

    >>> parse_socket_file("spire.sock"), parse_socket_file("socket")
    ('/run/secrets/workload-spiffe-uds/spire.sock', '')
    """
    text = fields.parse_text(text)
    if text in ("", _ISTIOS_OWN):
        return ""
    if "/" in text:
        return fields.parse_path(text)
    is_name = text.isascii() and all(each.isalnum() or each in "._-" for each in text)
    if text in (".", "..") or not is_name:
        raise ValueError(f"{fields.show(text)} is neither the name of a socket nor a path")
    return f"{_SOCKETS}/{text}"


def parse_endpoint(text: str) -> str:
    """The path of a socket that is named as SPIFFE does it; the empty text is none.

    Source: spiffe/spiffe standards/SPIFFE_Workload_Endpoint.md, 4.

    >>> parse_endpoint("unix:///run/spire/agent.sock"), parse_endpoint("unix:/run/agent.sock")
    ('/run/spire/agent.sock', '/run/agent.sock')
    """
    text = fields.parse_text(text)
    if not text:
        return ""
    scheme, colon, rest = text.partition(":")
    if scheme == "tcp" and colon:
        raise ValueError(f"{fields.show(text)}: who asks is known by a unix socket alone")
    path = rest.removeprefix("//")
    if scheme != "unix" or not path.startswith("/"):
        raise ValueError(f"{fields.show(text)} is not unix:// with the path of a socket")
    return fields.parse_path(path)


def parse_fetcher(text: str) -> model.Metadata | None:
    """Which metadata server has a token, or None for the token that is configured."""
    return named({"JWT": None, "GoogleComputeEngine": model.Metadata.GOOGLE})(text)


def parse_platform(text: str) -> model.Metadata | None:
    """Which cloud's document is shown; `unspecified` is onprem, as it is since Istio 1.0.2."""
    choices = {"onprem": None, "unspecified": None}
    known = {"gcp": model.Metadata.GOOGLE, "aws": model.Metadata.AMAZON}
    return named({**choices, **known})(text)


def parse_metadata_host(text: str) -> str:
    """HOST or HOST:PORT, as the authority of a URL has it.

    >>> parse_metadata_host("fd00::1")
    '[fd00::1]'
    """
    text = fields.parse_text(text)
    host, port = endpoints.parse_host_port(text if _has_port(text) else f"{_bracket(text)}:80")
    return f"{_bracket(host)}:{port}" if port != 80 else _bracket(host)


def _has_port(text: str) -> bool:
    host, separator, port = text.rpartition(":")
    return bool(separator) and port.isdigit() and (":" not in host or host.endswith("]"))


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def parse_ecc_algorithm(text: str) -> bool:
    """Whether a key of a curve is wanted."""
    if not text.strip():
        return False
    return named({"ECDSA": True})(text)


def parse_rsa_size(text: str) -> model.KeyKind | None:
    """An RSA key of one of the sizes that are of use."""
    if not text.strip():
        return None
    kinds = (model.KeyKind.RSA_2048, model.KeyKind.RSA_3072, model.KeyKind.RSA_4096)
    return named({kind.value.removeprefix("rsa-"): kind for kind in kinds})(text)


def parse_optional_bool(text: str) -> bool | None:
    """As `fields.parse_bool`; the empty text leaves it open."""
    return fields.parse_bool(text) if text.strip() else None
