"""Releases of classic Istio, 0.2 to 1.0: what of each a mesh expansion has to know.

Source: istio install/tools/setupMeshEx.sh and install/kubernetes/mesh-expansion.yaml at 0.2.7 to
1.0.9.
"""

import re
from typing import NamedTuple

OLDEST, NEWEST = (0, 2, 7), (1, 0)
_TEXT = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


class Release(NamedTuple):
    """A release by its numbers; a patch that is not said is the last of its line."""

    major: int
    minor: int
    patch: int = 99

    @property
    def line(self) -> tuple[int, int]:
        """The first two numbers."""
        return self.major, self.minor

    @property
    def has_mixer_server(self) -> bool:
        """Whether the mixer has the name mixer-server, too."""
        return self < (0, 2, 9)

    @property
    def has_citadel(self) -> bool:
        """Whether the CA is called Citadel, and Mixer is policy and telemetry."""
        return self.line >= (0, 8)

    @property
    def policy_key(self) -> str:
        """The key of cluster.env that says how the control plane is spoken to, or ""."""
        if self.line < (0, 4):
            return ""
        return "ISTIO_CP_AUTH" if self.line >= (1, 0) else "CONTROL_PLANE_AUTH_POLICY"

    @property
    def fetches_root_alone(self) -> bool:
        """Whether machineCerts fetches the root alone unless it is told `all`."""
        return self.line >= (0, 6)


def parse(text: str) -> Release:
    """Return a release; raises ValueError for none of classic Istio."""
    found = _TEXT.fullmatch(text)
    if found:
        numbers = [int(each) for each in found.groups() if each is not None]
        release = Release(*numbers)
        if release >= OLDEST and release.line <= NEWEST:
            return release
    raise ValueError(f"{text!r} is no release from 0.2.7 to 1.0")
