"""What of PROXY_CONFIG the host needs: a little of Istio's ProxyConfig, as YAML or as JSON.

Not a parser: there is none in the standard library, and what pilot-agent makes of a value is its
own business. What stands behind a `#` is a comment.
"""

import re

from . import jsontext

_DISCOVERY = re.compile(
    r"^[^#\n]*?discoveryAddress[\"']?\s*:\s*[\"']?([^\s\"',}]+:[0-9]{1,5})\b", re.MULTILINE
)
_PORT = r"^[^#\n]*?\b{}[\"']?\s*:\s*[\"']?([0-9]{{1,5}})\b"


def find_discovery_address(text: str) -> str:
    """The control plane that it names, or nothing.

    >>> find_discovery_address("discoveryAddress: istiod.example:15012")
    'istiod.example:15012'
    """
    found = _DISCOVERY.search(text)
    return found[1] if found is not None and not jsontext.is_bare_flow(text) else ""


def find_port(text: str, name: str, default: int) -> int:
    """The port that a key of it moves, or its default.

    >>> find_port('{"statusPort": 15120}', "statusPort", 15020)
    15120
    >>> find_port("# statusPort: 15120", "statusPort", 15020)
    15020
    """
    found = re.search(_PORT.format(name), text, re.MULTILINE)
    if found is None or jsontext.is_bare_flow(text) or not 0 < int(found[1]) < 65536:
        return default
    return int(found[1])
