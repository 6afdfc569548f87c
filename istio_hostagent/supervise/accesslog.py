"""The access log: one line of JSON for each captured connection, on standard output.

Not here: where standard output goes. It must be a pipe or file that the proxy's user may open
again, as Envoy opens /dev/stdout by name; at a socket such as the journal's it refuses to start.
The names of the fields are stable; a value that does not apply is null.
"""

from ..config import model
from . import message

_FIELDS = {
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "downstream_tls": "%DOWNSTREAM_TLS_VERSION%",
    "duration_ms": "%DURATION%",
    "flags": "%RESPONSE_FLAGS%",
    "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "start": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "upstream_tls": "%UPSTREAM_TLS_VERSION%",
}


def build_access_log(proxy: model.ProxySettings, direction: str, peer: str) -> message.Json:
    """Return the `access_log` entry of a filter, or nothing; `peer` formats the identity."""
    if not proxy.has_access_log:
        return {}
    fields = {**_FIELDS, "direction": direction, "peer": peer}
    line = {"json_format": dict(sorted(fields.items()))}
    stream = message.typed(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format=line,
    )
    return {"access_log": [stream]}
