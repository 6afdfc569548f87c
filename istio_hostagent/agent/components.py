"""The components that the composition root made, and what is known of this host from them."""

from ..host import mailbox, nftables, notify, ports, watch
from ..lifecycle import report
from ..lifecycle.life import Life
from ..lifecycle.situation import Now, Situation
from ..supervise import validation
from ..values import dataclass, field
from . import (
    certificate,
    configuration,
    events,
    fields,
    machine,
    prober,
    proxy,
    redirection,
    statedir,
    tasks,
)


@dataclass()
class Components:
    """Everything that the loop brings forward. Only the loop and the performer assign `life`."""

    inbox: mailbox.Mailbox[events.Event]
    clock: ports.Clock
    kernel: nftables.NftKernel
    watcher: watch.FileWatcher
    notifier: notify.Notifier
    work: tasks.Tasks
    packets: prober.Prober
    state: statedir.StateDirectory
    machine: machine.MachinePart
    configuration: configuration.ConfigurationPart
    certificate: certificate.CertificatePart
    redirection: redirection.RedirectionPart
    proxy: proxy.ProxyPart
    life: Life = field(default_factory=Life)

    def now(self) -> Now:
        """This moment on both clocks."""
        return Now(self.clock.monotonic(), self.clock.now())

    def situation(self) -> Situation:
        """What is known of the parts now, as the value that decides."""
        accepted = self.life.disk.accepted
        return Situation(
            redirection=self.redirection.value,
            rotation=self.certificate.value,
            child=self.proxy.child.child,
            validation=self.proxy.validation,
            has_program=self.proxy.binary is not None,
            is_outdated=self.proxy.is_outdated,
            # Asked only where it decides: it renders a bootstrap.
            is_new_build=accepted is not None
            and self.proxy.validation.check is validation.Check.BAD
            and self.proxy.would_differ(configuration.config_of(accepted)),
            is_owner=self.kernel.is_owner,
        )

    def report(self) -> report.Report:
        """What is known now, in words."""
        loaded = self.configuration.judged(self.life)
        held = self.certificate.value.held
        away = self.proxy.control_plane.away_since
        texts = report.Texts(
            cluster_file=self.configuration.sources.cluster,
            problems=loaded.problems,
            is_kept=loaded.is_kept,
            identity=held.identity if held is not None else "",
            held_until=fields.moment(held.not_after) if held is not None else "",
            certificate_trouble=self.certificate.trouble,
            rules_trouble=self.redirection.trouble,
            proxy_name=self.proxy.kind.value,
            proxy_trouble=self.proxy.trouble,
            searched=self.proxy.searched,
            control_plane_away_since=fields.moment(away) if away is not None else "",
        )
        return report.describe(self.life, self.situation(), self.now(), texts)
