"""What the agent may ask of files; it opens none itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ...supervise import builds
    from .. import layers
    from ..answers import looker
    from ..processes import User


class StateFiles(Protocol):
    """The files of the state directory, by name."""

    @property
    def directory(self) -> str:
        """Where they lie, for messages."""

    def has(self, name: str) -> bool:
        """Whether it is there."""

    def read(self, name: str, most: int) -> bytes:
        """Return at most so many bytes of it; raises OSError."""

    def write(self, name: str, data: bytes, *, mode: int) -> None:
        """Write it, whole or not at all, surviving a power cut; raises OSError."""

    def remove(self, name: str) -> bool:
        """Remove it, and say whether it was there; raises OSError."""

    def make_own(self, name: str, owner: tuple[int, int]) -> None:
        """Make a directory for this uid and gid alone, if it is not there; raises OSError."""


class Published(Protocol):
    """What everybody on this machine may read of the agent."""

    def write(self, state: dict[str, Any], /) -> None:
        """Replace it by plain JSON values, whole or not at all; raises OSError."""

    def remove(self) -> None:
        """Say that no agent runs; raises OSError."""


class EnvironmentFiles(Protocol):
    """The environment files as they lie on disk."""

    def begin(self, paths: Sequence[str], reader: User, /) -> layers.Begun:
        """Read those that are root's; a worker that runs as `reader` has to read the rest."""


class Sights(Protocol):
    """What is seen of files that lie where this process must not wait."""

    @property
    def is_behind(self) -> bool:
        """Whether there is one at which nobody has looked yet."""

    def remote(self) -> tuple[str, ...]:
        """Those that anybody has asked for."""

    def take(self, paths: Sequence[str], found: Sequence[looker.Sight], /) -> bool:
        """Somebody has looked at these; says whether anything differs from before."""


class CertificateFiles(Protocol):
    """What is seen of certificates and credentials without opening them, and where they lie."""

    def keep_out(self, output_dir: str) -> None:
        """From now on leave what lies in a directory of OUTPUT_CERTS to istio-proxy."""

    def fingerprint(self, path: str) -> object:
        """What changes when a file is written, replaced or opened to others."""

    def has_key(self, output_dir: str) -> bool:
        """Whether a key lies in a directory of OUTPUT_CERTS, or may lie there."""

    def watched(self, output_dir: str) -> tuple[str, ...]:
        """The files to be watched."""

    def look(self, output_dir: str) -> tuple[object, ...]:
        """What changes when one of those to be watched is replaced."""

    def make_store(self, output_dir: str, owner: User) -> str:
        """Return the store of a directory of OUTPUT_CERTS, made if need be; raises OSError."""

    def find_stores(self) -> tuple[tuple[str, str], ...]:
        """Give every store with its directory of OUTPUT_CERTS; raises OSError."""

    def remove_store(self, store: str) -> None:
        """Remove a store that has been emptied; raises OSError."""


class ProxyFiles(Protocol):
    """What of a proxy lies on disk."""

    @property
    def directory(self) -> str:
        """Where everything is written, one place for each network namespace."""

    def is_program(self, path: str) -> bool:
        """Whether a file is there that can be run, as far as is known."""

    def is_known(self, path: str) -> bool:
        """Whether it is known if a file is there."""

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """What tells the file at a path from another one; empty: none is there, or is known."""

    def write(self, built: builds.Build) -> None:
        """Put everything in its place; raises OSError."""

    def lead_to(self, place: str) -> None:
        """Let people find the admin interface of the Envoy that serves, started in this place."""

    def make_own_directory(self, relative: str) -> None:
        """Make a directory of the proxy's user there; raises OSError."""

    def remove_others(self, kept: Collection[builds.Build]) -> None:
        """Remove what was made for an Envoy and none of these uses; raises OSError."""
