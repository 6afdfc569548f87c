"""Which machine this is, to recognise files that came with a copied disk."""

import hashlib
import hmac

from . import files

_PATH = "/etc/machine-id"
_LENGTH = 32
# machine-id(5): the id itself is not shown to others; what is derived from it for one program is.
_PURPOSE = b"istio-hostagent certificate"


def read() -> str:
    """Return 64 hexadecimal digits of this machine; empty where it has no machine-id yet.

    Containers often have none, and an image that has not booted says "uninitialized".
    """
    try:
        text = files.read_bounded(_PATH).strip()
    except OSError:
        return ""
    return hmac.new(text, _PURPOSE, hashlib.sha256).hexdigest() if len(text) == _LENGTH else ""
