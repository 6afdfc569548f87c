"""What Envoy has refused of what its control plane sent, from lines of its log.

Its admin interface names listeners alone (config_dump, `error_state`), and counters name nothing;
the log names everything, once (Envoy 1.40: source/common/upstream/cds_api_helper.cc,
source/common/listener_manager/lds_api.cc; all: source/extensions/config_subscription/grpc).
Not here: reading the log (`host.output`).
Always: names and reasons come from whoever is istiod; they are printable, short and few.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# In every line that matters.
MARK = "rejected: "
MOST = 16

# cds: cluster 'outbound|80||a' config rejected: …
_ONE = re.compile(r"\b[cl]ds: (cluster|listener) '([!-&(-~]{1,200})' config rejected: (.+)")
# gRPC config for type.googleapis.com/envoy.config.route.v3.RouteConfiguration rejected: …
_TYPE = re.compile(
    r"gRPC config for type\.googleapis\.com/[a-z0-9_.]{1,80}\.([A-Za-z]{1,40}) rejected: (.+)"
)
_ADDING = re.compile(r"Error adding/updating [a-z]{1,20}\(s\) ([!-~]{1,200}): (.+)")
_UNKNOWN = re.compile(r"registered implementation for '([!-&(-~]{1,80})'")
_LONGEST = 160


class Refusal(NamedTuple):
    """One resource that was refused; the name is empty where the log does not say it."""

    kind: str  # cluster, listener, routeconfiguration …
    name: str
    reason: str


def parse_lines(lines: Iterable[str]) -> tuple[Refusal, ...]:
    """What these lines say was refused, each resource once, the first ones."""
    found: dict[tuple[str, str], Refusal] = {}
    for line in lines:
        refusal = _parse(line)
        # The summary behind lines for each one has no more to say.
        is_summed = refusal is not None and _TYPE.search(line) is not None
        if refusal is None or (is_summed and any(kind == refusal.kind for kind, _ in found)):
            continue
        if len(found) < MOST:
            found.setdefault((refusal.kind, refusal.name), refusal)
    return tuple(found.values())


def _parse(line: str) -> Refusal | None:
    if one := _ONE.search(line):
        kind, name, reason = one.groups()
    elif whole := _TYPE.search(line):
        kind, reason = whole.groups()
        name = ""
        if adding := _ADDING.match(reason):
            name, reason = adding.groups()
    else:
        return None
    shown = "".join(each if each.isprintable() else "?" for each in reason)
    return Refusal(kind.lower(), name, shown[:_LONGEST])


def describe(found: tuple[Refusal, ...]) -> str:
    """Say it in one line; empty for none."""
    if not found:
        return ""
    first = found[0]
    text = f"{first.kind} {first.name}".strip()
    more = len(found) - 1
    if more:
        text += f" and {more} {'or more ' if len(found) == MOST else ''}others"
    unknown = dict.fromkeys(name for each in found for name in _UNKNOWN.findall(each.reason))
    if not unknown:
        return f"refuses what istiod sends: {text}: {first.reason}"
    return f"refuses what istiod sends: {text}: it does not have {', '.join(unknown)} ({_REMEDY})"


# What istiod sends to a sidecar by default, and only some builds of Envoy have.
_REMEDY = (
    "take the Envoy of Istio's package istio-sidecar, or a contrib build of Envoy 1.38 or later;"
    " or have istiod send none of it: PILOT_ENABLE_METADATA_EXCHANGE=false,"
    " PILOT_ENABLE_ALPN_FILTER=false and no metrics provider"
)
