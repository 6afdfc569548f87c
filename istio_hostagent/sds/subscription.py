"""One call of the secret discovery service: what its client wants, has, and is still to get.

Source: envoyproxy.io, xDS REST and gRPC protocol; api/envoy/service/discovery/v3/discovery.proto.
Always: a secret that the client has refused is not sent again before it changes; of several
changes that a slow client has not taken yet it gets the last one.
Not here: HTTP/2 and the framing of messages (`connection`).
"""

import enum

from .. import protobuf
from . import secrets


class Method(enum.Enum):
    """The calls of envoy.service.secret.v3.SecretDiscoveryService, by name."""

    STREAM = b"StreamSecrets"  # state of the world: each answer holds all that is wanted
    DELTA = b"DeltaSecrets"
    FETCH = b"FetchSecrets"  # one question, one answer


# DiscoveryRequest.
_NAMES, _TYPE_URL, _NONCE, _ERROR = 3, 4, 5, 6
# DeltaDiscoveryRequest.
_DELTA_TYPE_URL, _SUBSCRIBE, _UNSUBSCRIBE, _KNOWN, _DELTA_NONCE, _DELTA_ERROR = 2, 3, 4, 5, 6, 7
# DiscoveryResponse, and DeltaDiscoveryResponse with the same numbers.
_VERSION, _RESOURCES, _ANSWER_TYPE, _ANSWER_NONCE = 1, 2, 4, 5
# Resource: what a delta response holds for each secret.
_RESOURCE_VERSION, _RESOURCE, _RESOURCE_NAME = 1, 2, 3
# An entry of a map; google.rpc.Status.
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_STATUS_MESSAGE = 2

# Nobody needs more than two.
MAX_NAMES = 64
# What the client has: not to be known, or only a version, told by a client that came back.
_Had = secrets.Secret | bytes | None


class Request:
    """One request, of either kind; fields that were not sent are empty."""

    __slots__ = ("error", "known", "names", "nonce", "type", "unwanted")

    def __init__(self, message: bytes, *, is_delta: bool) -> None:
        """Take a message apart; raises ValueError where it is broken."""
        self.names: list[bytes] = []
        self.unwanted: list[bytes] = []
        self.known: list[tuple[bytes, bytes]] = []
        self.type = self.nonce = b""
        self.error: bytes | None = None
        for number, content in protobuf.parse_bytes(message):
            if is_delta:
                self._take_delta(number, content)
            elif number == _NAMES:
                self.names.append(content)
            elif number == _TYPE_URL:
                self.type = content
            elif number == _NONCE:
                self.nonce = content
            elif number == _ERROR:
                self.error = _status_message(content)
        if max(len(self.names), len(self.unwanted), len(self.known)) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names in one request")

    def _take_delta(self, number: int, content: bytes) -> None:
        if number == _SUBSCRIBE:
            self.names.append(content)
        elif number == _UNSUBSCRIBE:
            self.unwanted.append(content)
        elif number == _KNOWN:
            entry = dict(protobuf.parse_bytes(content))
            self.known.append((entry.get(_ENTRY_KEY, b""), entry.get(_ENTRY_VALUE, b"")))
        elif number == _DELTA_TYPE_URL:
            self.type = content
        elif number == _DELTA_NONCE:
            self.nonce = content
        elif number == _DELTA_ERROR:
            self.error = _status_message(content)


class Subscription:
    """The state of one call."""

    def __init__(self, method: Method) -> None:
        """Begin: nothing is wanted yet."""
        self.method = method
        self._had: dict[bytes, _Had] = {}
        self._nonce = 0
        self._is_first = True

    @property
    def names(self) -> tuple[bytes, ...]:
        """What is wanted."""
        return tuple(self._had)

    def take(self, message: bytes) -> bytes | None:
        """Take one request; return why the client refuses what it was sent, None if it does not.

        Raises ValueError for a request that is broken or about something else than secrets: it
        changes nothing, and the call is to be ended.
        """
        request = Request(message, is_delta=self.method is Method.DELTA)
        if request.type not in (b"", secrets.TYPE):
            raise ValueError("this server has no resources but secrets")
        is_first, self._is_first = self._is_first, False
        if self.method is Method.DELTA:
            self._subscribe(request, is_first=is_first)
        elif is_first or request.nonce in (b"", b"%d" % self._nonce):
            # Else it is about an answer that has been overtaken by another one.
            self._had = {name: self._had.get(name) for name in request.names}
        if len(self._had) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} names in one call")
        return request.error

    def _subscribe(self, request: Request, *, is_first: bool) -> None:
        if is_first:
            self._had.update(request.known)
        known = dict(request.known) if is_first else {}
        # Who asks again for what he has wants to get it again.
        self._had.update({name: known.get(name) for name in request.names})
        for name in request.unwanted:
            self._had.pop(name, None)

    def answer(self, held: secrets.Secrets) -> bytes:
        """Return the message that the client is to get now, empty if there is none.

        It counts as taken from now on.
        """
        wanted = [held[name] for name in self._had if name in held]
        changed = [secret for secret in wanted if not self._is_had(secret)]
        if not changed:
            return b""
        self._nonce += 1
        self._had.update((secret.name, secret) for secret in wanted)
        if self.method is Method.DELTA:
            message = b"".join(
                protobuf.render_bytes(_RESOURCES, _resource(each)) for each in changed
            )
        else:
            version = b"/".join(each.version for each in wanted)
            message = protobuf.render_bytes(_VERSION, version)
            message += b"".join(
                protobuf.render_bytes(_RESOURCES, each.resource) for each in wanted
            )
        nonce = b"%d" % self._nonce
        return (
            message
            + protobuf.render_bytes(_ANSWER_TYPE, secrets.TYPE)
            + protobuf.render_bytes(_ANSWER_NONCE, nonce)
        )

    def _is_had(self, secret: secrets.Secret) -> bool:
        had = self._had[secret.name]
        return had == (secret.version if isinstance(had, bytes) else secret)


def _resource(secret: secrets.Secret) -> bytes:
    return (
        protobuf.render_bytes(_RESOURCE_NAME, secret.name)
        + protobuf.render_bytes(_RESOURCE_VERSION, secret.version)
        + protobuf.render_bytes(_RESOURCE, secret.resource)
    )


def _status_message(status: bytes) -> bytes:
    return dict(protobuf.parse_bytes(status)).get(_STATUS_MESSAGE, b"")
