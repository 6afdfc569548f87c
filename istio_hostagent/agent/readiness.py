"""PURE: from what is known to the words: in control, in the mesh, and one line that says why not.

The line names the first thing that is missing, in the order in which joining needs it, with the
file and line or the process that is to blame (design invariant 9).
"""

from dataclasses import dataclass

from ..errors import Problem
from . import join


@dataclass(frozen=True)
class Knowledge:
    """Everything the words depend on. Texts are empty where there is nothing to say."""

    situation: join.Situation
    is_empty: bool  # no configuration has been written yet
    is_kept: bool  # the files are bad or gone; the accepted ones are in force
    is_changing: bool  # what the files make is judged or tried, and has not worked yet
    cluster_file: str
    problems: tuple[Problem, ...]
    identity: str
    held_until: str
    certificate_trouble: str
    rules_trouble: str
    state_trouble: str
    attempt_trouble: str
    proxy_name: str
    proxy_trouble: str
    searched: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """`is_in_control`: nothing is pending that needs no person. `summary` is the STATUS= text."""

    is_in_control: bool
    is_in_mesh: bool
    summary: str


def describe(known: Knowledge) -> Report:
    """Put what is known into words."""
    now = known.situation
    obstacle = _obstacle(known)
    if now.is_in_mesh:
        summary = f"in the mesh as {known.identity}, certificate until {known.held_until}"
        if known.problems:
            summary += f"; {_problems(known)}"
        elif obstacle:
            summary += f"; {obstacle}"
        elif known.is_changing:
            summary += "; a changed configuration is being tried"
        return Report(is_in_control=True, is_in_mesh=True, summary=summary)
    waiting = obstacle or _progress(known)
    summary = f"{'joined, not whole' if now.is_joined else 'not in the mesh'}: {waiting}"
    return Report(is_in_control=bool(obstacle), is_in_mesh=False, summary=summary)


def _problems(known: Knowledge) -> str:
    others = len(known.problems) - 1
    more = f" (and {others} more)" if others else ""
    kept = ", keeping the last accepted configuration" if known.is_kept else ""
    return f"{known.problems[0]}{more}{kept}"


def _obstacle(known: Knowledge) -> str:
    """What is wrong, or waits for a person; empty while things only take their time."""
    now = known.situation
    if known.is_empty and not now.has_config:
        return f"waiting for {known.cluster_file}"
    if known.problems:
        return _problems(known)
    if known.rules_trouble:
        return f"redirection: {known.rules_trouble}"
    if known.state_trouble:
        return known.state_trouble
    if not now.has_binary:
        return f"no {known.proxy_name} found; searched {', '.join(known.searched)}"
    if known.proxy_trouble:
        return f"proxy: {known.proxy_trouble}"
    if known.certificate_trouble:
        return f"certificate: {known.certificate_trouble}"
    if known.attempt_trouble:
        return f"the last attempt to join failed: {known.attempt_trouble}"
    return ""


def _progress(known: Knowledge) -> str:
    now = known.situation
    if not now.has_certificate:
        # A joined agent that starts has one on disk, which a worker is looking at.
        return f"waiting for the {'' if now.is_joined else 'first '}certificate"
    if now.bootstrap is not join.Check.GOOD:
        return "checking the proxy's bootstrap"
    if now.rules is not join.Rules.PROVEN:
        return f"rules {now.rules.value}, not proven yet"
    return f"waiting for {known.proxy_name} to become ready"
