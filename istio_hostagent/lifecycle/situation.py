"""What is known of the parts of a host at one moment, and what can be said from that alone.

Not here: which phase the host is in, and what to do (`life`, `decide`).
"""

from typing import NamedTuple

from ..identity import rotation as rotations
from ..supervise import child as children
from ..supervise import validation as validations
from . import holding as holdings
from . import predecessor as predecessors
from . import redirection as redirections
from . import serving as servings


class Now(NamedTuple):
    """One moment on both clocks: one that never jumps, and the one that certificates go by."""

    monotonic: float
    wall: float


class Situation(NamedTuple):
    """Each part's own value, and what sets the proxy beside the configuration."""

    redirection: redirections.Redirection = redirections.Redirection()
    holding: holdings.Holding = holdings.Holding()
    predecessor: predecessors.Predecessor = predecessors.Predecessor()
    rotation: rotations.Rotation = rotations.Rotation()
    child: children.Child = children.Child()
    serving: servings.Serving = servings.Serving()
    validation: validations.Validation = validations.Validation()  # of the proxy that is desired
    has_program: bool = False
    is_outdated: bool = False  # what runs is not the proxy, or not the bootstrap, that is desired
    is_upgrade: bool = False  # ... or only another file at the path of its program
    is_elsewhere: bool = False  # what runs does not listen where the rules lead
    # what is to come into force needs another proxy, which could only be started as the third one
    must_wait: bool = False
    is_new_build: bool = False  # with the configuration that has worked another one would run
    # nothing but what the proxy shows tells that this host is in the mesh: nothing is redirected
    must_show: bool = False
    is_answering: bool = True  # queries for names are answered, where they are captured
    answer_error: str = ""  # why they are not, once that is more than a matter of time
    is_owner: bool = False  # the rules end with a socket that the service manager keeps

    def is_complete(self, now: Now) -> bool:
        """Whether everything is there that a proxy needs."""
        return self.has_program and self.validation.is_good and self.rotation.is_held(now.wall)

    @property
    def is_serving(self) -> bool:
        """Whether the proxy that is desired is ready, by whatever file it was started."""
        is_ready = self.child.state is children.State.READY
        if self.is_upgrade:
            return is_ready or self.child.is_handing_over
        return is_ready and not self.is_outdated

    def is_whole(self, now: Now) -> bool:
        """Whether the host does all that being in the mesh promises (design 3.5)."""
        has_certificate = self.rotation.is_held(now.wall)
        is_serving = self.is_serving and (self.serving.has_shown or not self.must_show)
        is_serving = is_serving and self.is_answering
        return has_certificate and self.redirection.is_open and is_serving

    @property
    def show_error(self) -> str:
        """Why it is not known to show the certificate that is held, where that has to be known.

        Empty while it may still be asked soon.
        """
        value = self.serving
        if not (self.must_show and self.is_serving) or value.has_shown:
            return ""
        is_over = value.unknown >= servings.UNKNOWN_TRIES
        is_over = is_over or (self.shows_other and value.tries > servings.RELOADS)
        return f"the proxy {value.last_error}" if is_over else ""

    @property
    def shows_other(self) -> bool:
        """Whether the proxy is known to show another certificate than the one that is held."""
        return self.serving.shown is servings.Shown.OTHER

    @property
    def proxy_error(self) -> str:
        """What is wrong with the proxy, or nothing."""
        return self.validation.last_error or self.child.last_error

    @property
    def is_hopeful(self) -> bool:
        """Whether the proxy may be ready soon."""
        return self.child.state in (children.State.STARTING, children.State.BACKOFF)

    @property
    def has_obstacle(self) -> bool:
        """Whether something is wrong, or waits for a person; else things only take their time."""
        return bool(
            self.redirection.last_error
            or self.holding.last_error
            or not self.has_program
            or self.proxy_error
            or self.rotation.last_error is not None
            or self.shows_other
            or self.show_error
        )
