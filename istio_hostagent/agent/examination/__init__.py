"""What `doctor` makes of what it has seen: a Finding for each thing that a host needs.

Pure: what was seen comes as one value (`seen.Seen`), so that each finding can be tried both ways.
Not here: looking (`agent.oneshot.doctor`). A finding is good only for what it names as seen; what
could not be looked at is a finding of its own.
"""

from collections.abc import Iterator

from . import machine, standing, way
from .finding import Finding, Level
from .seen import Seen


def examine(seen: Seen) -> Iterator[Finding]:
    """Give every finding, in the order in which people look."""
    found: list[Finding] = []
    for part in (
        *(machine.examine_units, standing.examine_agent, standing.examine_configuration),
        *(way.examine_roots, way.examine_token, way.examine_names, way.examine_calls),
        *(way.examine_clock, standing.examine_certificate, machine.examine_kernel),
        *(machine.examine_ports, standing.examine_rules, standing.examine_proxy),
        *(standing.examine_control_plane, machine.examine_dnsmasq, machine.examine_others),
    ):
        for finding in part(seen):
            found.append(finding)
            yield finding
    yield from standing.examine_rest(seen, found)


def is_fine(findings: list[Finding]) -> bool:
    """Whether nothing is wrong; warnings, and what was not seen, are not wrong."""
    return all(each.level is not Level.WRONG for each in findings)
