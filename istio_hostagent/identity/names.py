"""SPIFFE IDs of Kubernetes service accounts, and their parts.

Source: istio/istio pkg/spiffe/spiffe.go: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
"""

import re
from collections.abc import Collection

PARTS = ("trust_domain", "namespace", "service_account")
# A SPIFFE ID of any system (SPIFFE-ID 2: trust domain and path).
_ANY = re.compile(r"spiffe://([a-z0-9._-]{1,255})(/[A-Za-z0-9._-]+)+")
_ID = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)")


def agrees(stated: str, configured: str, named_parts: Collection[str]) -> bool:
    """Whether a stated ID is one of a service account, and has the parts that are named.

    Of `configured` only the parts in `named_parts` have been set by somebody.
    """
    found, wanted = _ID.fullmatch(stated), _ID.fullmatch(configured)
    if found is None or wanted is None:
        return False
    parts = zip(PARTS, found.groups(), wanted.groups(), strict=True)
    return all(here == there for name, here, there in parts if name in named_parts)


def fits(stated: str, configured: str, named_parts: Collection[str]) -> bool:
    """Whether an ID that somebody else has given this host may be its own.

    It is of the configured trust domain in any case: by that its peers know it. A path of another
    form than that of a service account is as good where neither part of that is named.
    """
    found = _ANY.fullmatch(stated)
    if found is None or not configured.startswith(f"spiffe://{found[1]}/"):
        return False
    is_free = not {"namespace", "service_account"} & set(named_parts)
    return is_free or agrees(stated, configured, named_parts)
