"""`apply`: the rules of the configuration into the kernel."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping

from ...config import capture, model
from ...errors import KernelBusy, NotPermitted, PortTaken
from ...host import heldports, layers, processes, socketowner, unconfirmed
from ...redirect import model as rulesets
from ...redirect import policy
from . import configuration, takeover
from .kernel import Held, ask, locked


def perform(environment: Mapping[str, str], reading: layers.Reading) -> Iterator[str]:
    """Install the rules and read them back; returns the lines of the diff that was applied.

    Nothing is captured into a port that somebody else has; once this process ends nobody holds
    the ports any more, and until the proxy listens anybody may take them.
    """
    with ready(environment, reading) as (rules, desired):
        done = ask(rules.install, desired)
        unconfirmed.forget()
        if not desired.tables:
            # Rules of the operator's own, which may be Istio's, or none at all.
            return itertools.chain(done.lines, capture.describe_none(is_none=rules.wants_none))
        # Ours capture from here on: what Istio's scripts have left may go.
        return itertools.chain(done.lines, takeover.take_over_all(is_replaced=True))


@contextlib.contextmanager
def ready(
    environment: Mapping[str, str], reading: layers.Reading
) -> Iterator[tuple[Held, rulesets.Ruleset]]:
    """Give what keeps the rules, and the rules of the configuration, with the capture ports held.

    Raises Unconfirmed while rules wait for confirmation, and what `locked` raises.
    """
    _, config, facts = configuration.require(environment, reading)
    user = processes.User(facts.proxy_uid, facts.proxy_gid)
    back_end = config.redirection.back_end
    with locked(back_end) as rules, contextlib.closing(heldports.HeldPorts({}, user)) as held:
        unconfirmed.refuse()
        _hold(held, config.redirection)
        yield rules, policy.build_ruleset(config.redirection, facts)


def _hold(held: heldports.HeldPorts, redirection: model.Redirection) -> None:
    """Hold the capture ports for now; raises PortTaken naming who has one."""
    for port in redirection.capture_ports:
        try:
            held.hold(port)
        except PortTaken as error:
            pid, program = socketowner.find_process(error.inode)
            who = f": {program} (pid {pid})" if pid else ""
            raise PortTaken(
                f"{error.message}{who}", port=port, is_client=error.is_client
            ) from error
        except (KernelBusy, NotPermitted):
            pass  # who cannot hold it may still be asked for the rules
