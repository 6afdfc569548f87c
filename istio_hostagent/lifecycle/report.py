"""From what is known to the words: in control, in the mesh, and one line that says why not.

The line names the first thing that is missing, in the order in which joining needs it, with the
file and line or the process that is to blame (design invariant 9).
"""

from typing import NamedTuple

from ..supervise import validation
from . import predecessor, redirection
from .life import Life
from .phase import Phase
from .situation import Now, Situation


class Texts(NamedTuple):
    """What the parts say; empty where there is nothing to say.

    `obstacles`: what is wrong or waits for a person, in the order in which joining needs it.
    """

    obstacles: tuple[str, ...] = ()
    identity: str = ""
    held_until: str = ""
    proxy_name: str = ""
    control_plane_away_since: str = ""
    control_plane_reason: str = ""
    remark: str = ""  # of a host in the mesh: what an operator should know


class Report(NamedTuple):
    """`is_in_control`: nothing is pending that needs no person. `summary` is the STATUS= text."""

    is_in_control: bool
    is_in_mesh: bool
    summary: str


def describe(life: Life, now_is: Situation, now: Now, texts: Texts) -> Report:
    """Put what is known into words."""
    # Empty while things only take their time.
    obstacle = next(filter(None, texts.obstacles), "")
    if life.is_in_mesh(now_is, now):
        summary = f"in the mesh as {texts.identity}, certificate until {texts.held_until}"
        if obstacle:
            summary += f"; {obstacle}"
        elif life.is_changing:
            summary += "; a changed configuration is being tried"
        elif now_is.redirection.rules is redirection.Rules.PARTLY:
            summary += "; some rules could not be tested on this host yet (see verify)"
        elif now_is.redirection.rules is redirection.Rules.UNTESTED:
            summary += "; the rules were read back and cannot be tested by packets here"
        elif now_is.redirection.rules is redirection.Rules.NEEDLESS:
            summary += "; nothing is redirected, applications speak to the proxy by themselves"
        if texts.remark:
            summary += f"; {texts.remark}"
        summary += _control_plane(texts, ", the proxy goes on with its last configuration")
        return Report(is_in_control=True, is_in_mesh=True, summary=summary)
    waiting = obstacle or _progress(life, now_is, now, texts)
    summary = f"{'degraded' if life.is_joined else 'not in the mesh'}: {waiting}"
    summary += _control_plane(texts)
    return Report(is_in_control=bool(obstacle), is_in_mesh=False, summary=summary)


def _control_plane(texts: Texts, consequence: str = "") -> str:
    if not texts.control_plane_away_since:
        return ""
    text = f"; no connection to the control plane since {texts.control_plane_away_since}"
    if texts.control_plane_reason:
        return f"{text}{consequence}: {texts.control_plane_reason}"
    return f"{text}{consequence}: look for xds-grpc in the log, and at istiod and the way to it"


def _progress(life: Life, now_is: Situation, now: Now, texts: Texts) -> str:
    if life.in_force is None and not life.offer.is_read:
        return "reading the configuration"
    if not now_is.rotation.is_held(now.wall):
        # A joined agent that starts has one on disk, which a worker is looking at.
        return f"waiting for the {'' if life.is_joined else 'first '}certificate"
    if now_is.validation.check is not validation.Check.GOOD:
        return "checking the proxy's bootstrap"
    if now_is.predecessor.is_changing or now_is.predecessor.state is predecessor.State.HELD:
        return "taking over from another agent; new connections wait meanwhile"
    if not now_is.redirection.is_shown:
        return f"rules {now_is.redirection.rules.value}, not proven yet"
    if now_is.must_show and now_is.is_serving and not now_is.serving.has_shown:
        return f"waiting for {texts.proxy_name} to show the certificate that is held"
    if now_is.is_serving and not now_is.is_answering:
        return "waiting for the resolver to answer queries for names"
    if now_is.child.is_handing_over:
        return f"the next {texts.proxy_name} takes over from the one that serves"
    if now_is.is_outdated and now_is.child.is_blocked:
        return "waiting until the connections of the proxy before are drained"
    if life.phase is Phase.OUT:
        return "the rules of an earlier attempt are taken out first"
    return f"waiting for {texts.proxy_name} to become ready"
