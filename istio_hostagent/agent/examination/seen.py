"""What `doctor` has looked at, as frozen values: nothing here says whether that is well."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...config import model
from ...host import survey
from ...host.answers import reach


class Target(NamedTuple):
    """One end of the way that was called: what it is to this host, and how it was spoken to.

    `names`: those of its certificate. `kind`: as in `workers.reach`.
    """

    subject: str
    host: str
    port: int
    names: tuple[str, ...]
    kind: str

    @property
    def is_named(self) -> bool:
        """Whether it is known by a name that has to be looked up."""
        return not (":" in self.host or self.host.replace(".", "").isdigit())


class Seen(NamedTuple):
    """Everything that was looked at, and why the rest was not.

    `status`: the agent's report, or what it publishes (not `is_whole`); None: `silence` says why.
    `config`: what the files say; None with `problems`, or without any (they set nothing), or
    `unread` says why they were not read. `verification`: that of `verify`; None: `unverified` says
    why. `reached`: the worker's answer for `targets`; None: `unreached` says why. `hosts`: the
    lines of /etc/hosts by name. `units`: None without systemd. `holders`: who has ports of the
    proxy's; `unheld` says why that is not known. `kubedns`: the names that dnsmasq answers by our
    file, each with what is wrong. `left`: what Istio's scripts have left, in words; `unsearched`
    says why some of it was not looked for.
    """

    now: float
    version: str
    is_root: bool = True
    status: Mapping[str, Any] | None = None
    is_whole: bool = True
    silence: str = ""
    config: model.Config | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unread: str = ""
    verification: Mapping[str, Any] | None = None
    unverified: str = ""
    targets: tuple[Target, ...] = ()
    reached: reach.Reached | None = None
    unreached: str = ""
    hosts: tuple[tuple[str, tuple[survey.HostsLine, ...]], ...] = ()
    units: tuple[survey.Unit, ...] | None = ()
    holders: tuple[survey.Holder, ...] = ()
    unheld: str = ""
    features: tuple[survey.Feature, ...] = ()
    kubedns: tuple[tuple[str, str], ...] = ()
    left: str = ""
    predecessors: tuple[str, ...] = ()
    strangers: tuple[survey.Process, ...] = ()
    unsearched: str = ""

    @property
    def has_certificate(self) -> bool:
        """Whether a certificate is held that is good now."""
        if self.status is None:
            return False
        until = self.status["certificate"]["not_after"]
        return until is not None and until > self.now

    @property
    def is_renewed_elsewhere(self) -> bool:
        """Whether somebody else renews the certificate, and no CA is asked."""
        return self.config is not None and bool(self.config.identity.renewed_in)

    def lines_of(self, host: str) -> tuple[survey.HostsLine, ...]:
        """The lines of /etc/hosts with a name."""
        return dict(self.hosts).get(host, ())
