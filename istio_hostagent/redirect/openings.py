"""How the rules by which a firewall lets a port in are said again for what is captured there.

A captured connection meets the firewall of the host at the proxy's port. A rule that lets in the
application's port is repeated in front of itself, for connections that were translated from that
port: all its other conditions stay as they are, and whatever comes before it is still met first.
So what the operator lets in is let in, and nothing else; who connects to the proxy's port itself
was not translated. A repetition leads into a chain of ours, which makes it known, and carries a
digest of itself, by which it is compared with what the rule behind it asks for now.

Rules come in two forms: statements as `nft --json` shows them, and words of `iptables -S`. Not
here: reading and changing them (`host.firewalltools`), and taking them out (`host.openings`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from . import denials, model, ranges, words

_PORT = ("tcp", "th")  # `th dport` is the port of any protocol
_ORIGINAL = {"ct": {"key": "proto-dst", "dir": "original"}}
_COMPARISONS = ("==", "in", "!=", "<", ">", "<=", ">=")


_OF_ADDRESS = "it looks at the address that was asked for, which the translation changes"


class NotRepeatable(ValueError):
    """A rule that lets a port in cannot be repeated; the text is a clause that says why."""


class Port(NamedTuple):
    """Where captured connections arrive, and of which ports they are."""

    at: int
    captured: ranges.Ranges


class Repetition(NamedTuple):
    """A rule of ours: statements or words, but for where it leads, its digest, and its ports."""

    conditions: tuple[Any, ...]
    digest: str
    ports: ranges.Ranges = denials.EVERY


class Listed(NamedTuple):
    """One rule of a chain. `digest`: of one of ours; others ask for `repetitions`.

    `handle`: the number by which its tool knows it. `problem`: why it is not repeated.
    `denial`: what it may deny by port or address.
    """

    handle: int
    digest: str = ""
    repetitions: tuple[Repetition, ...] = ()
    problem: str = ""
    denial: denials.Denial = denials.Denial()


# A rule in a form that is not understood, which may deny everything.
UNKNOWN = Listed(
    0,
    problem="it has a form that is not known here",
    denial=denials.Denial(denials.EVERY),
)
# What reading such a form may raise.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, StopIteration)
# Not as the comments on our own rules begin: a chain with one of those counts as ours where rules
# have been carried over to legacy tables (`systemd/legacy-rules`).
PREFIX = f"opened by {model.OPENINGS_CHAIN} "
COMMENT = f"{PREFIX}for what is captured"


def read_digest(comment: str) -> str:
    """Find the digest in the comment of a rule; empty for one of somebody else."""
    return comment.removeprefix(PREFIX) if comment.startswith(PREFIX) else ""


class Changes(NamedTuple):
    """What makes a chain right: rules to delete, and what to put in front of which rule."""

    delete: tuple[int, ...] = ()
    insert: tuple[tuple[int, Repetition], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.delete or self.insert)


def arrange(listed: Sequence[Listed]) -> Changes:
    """Compare what of ours is in a chain with what its other rules ask for."""
    delete: list[int] = []
    insert: list[tuple[int, Repetition]] = []
    before: list[Listed] = []  # rules of ours in front of the next one of somebody else
    for each in listed:
        if each.digest:
            before.append(each)
            continue
        if [one.digest for one in before] != [one.digest for one in each.repetitions]:
            delete += [one.handle for one in before]
            insert += [(each.handle, one) for one in each.repetitions]
        before = []
    delete += [one.handle for one in before]
    return Changes(tuple(delete), tuple(insert))


def _repetition(conditions: Iterable[Any], at: int, ports: ranges.Ranges) -> Repetition:
    made = tuple(conditions)
    text = json.dumps([at, made], sort_keys=True)
    return Repetition(made, hashlib.sha256(text.encode()).hexdigest()[:12], ports)


def _is_captured(first: int, last: int, captured: ranges.Ranges) -> bool:
    return bool(ranges.intersect(((first, last),), captured))


# -- statements ---------------------------------------------------------------------------------


def repeat_statements(
    statements: Sequence[Any], at: int, captured: ranges.Ranges
) -> tuple[Repetition, ...]:
    """Repeat a rule for connections translated to port `at`, if it lets in captured ports.

    None for any other rule. Raises NotRepeatable.
    """
    verdicts = list(map(_find_accepted, statements))
    numbers = [number for number, each in enumerate(statements) if names_port(each)]
    if not any(verdicts) or not numbers:
        return ()
    if len(numbers) > 1:
        raise NotRepeatable("it looks at the port more than once")
    (number,) = numbers
    if not all(map(_has_tcp, filter(_is_protocol, statements))):
        return ()
    if any(map(denials.depends_on_address, statements)):
        raise NotRepeatable(_OF_ADDRESS)
    head = [kept for each in statements[:number] for kept in _keep(each)]
    tail = [kept for each in statements[number + 1 :] for kept in _keep(each)]
    # Said of TCP, since of several protocols nft (1.0.6) shows the original port in words that it
    # does not read again.
    at_proxy = _match("==", {"payload": {"protocol": "tcp", "field": "dport"}}, at)
    return tuple(
        _repetition((*head, at_proxy, original, *tail), at, _ports_of(original, captured))
        for original in _repeat_port(statements[number], captured)
    )


def _ports_of(original: Any, captured: ranges.Ranges) -> ranges.Ranges:
    """The captured ports that a repeated condition is about, or more of them."""
    operator, right = original["match"]["op"], original["match"]["right"]
    if operator != "==" or not isinstance(right, (int, dict)):
        return captured
    first, last = right["range"] if isinstance(right, dict) else (right, right)
    return ((first, last),)


def names_port(statement: Any) -> bool:
    """Whether a statement looks at the destination port of TCP."""
    if isinstance(statement, dict):
        payload = statement.get("payload")
        if isinstance(payload, dict) and payload.get("field") == "dport":
            return payload.get("protocol") in _PORT
        return any(map(names_port, statement.values()))
    return isinstance(statement, list) and any(map(names_port, statement))


def _is_protocol(statement: Any) -> bool:
    """Whether a statement looks at nothing but the protocol, as those before `th dport` do."""
    return "match" in statement and statement["match"]["left"] == {"meta": {"key": "l4proto"}}


def _has_tcp(statement: Any) -> bool:
    right = statement["match"]["right"]
    protocols = right["set"] if isinstance(right, dict) and "set" in right else [right]
    return statement["match"]["op"] in ("==", "in") and "tcp" in protocols


def _find_accepted(statement: Any) -> bool:
    """Whether a packet may be let in by this statement."""
    if "vmap" in statement:
        data = statement["vmap"].get("data")
        return isinstance(data, dict) and any("accept" in each[1] for each in data["set"])
    return "accept" in statement


def _keep(statement: Any) -> Iterator[Any]:
    (kind,) = statement
    if kind in ("match", "limit"):
        if not _is_protocol(statement):
            yield statement
    elif kind == "counter":
        yield {"counter": None}  # from zero on
    elif kind not in ("accept", "log"):
        raise NotRepeatable(f"it has a part ({kind}) that cannot be said twice")


def _match(operator: str, left: Any, right: Any) -> Any:
    return {"match": {"op": operator, "left": left, "right": right}}


def _repeat_port(statement: Any, captured: ranges.Ranges) -> Iterator[Any]:
    """Give the same condition of the port that was asked for.

    One for each port or range of an unnamed set: nft (1.0.6) shows such a set of original ports
    in words that it does not read again, and people write `nft list ruleset` into their files.
    """
    if "vmap" in statement:
        pairs = statement["vmap"]["data"]["set"]
        yield from _repeat_elements(
            statement["vmap"]["key"],
            [key for key, verdict in pairs if "accept" in verdict],
            captured,
        )
        return
    if "match" not in statement or statement["match"]["op"] not in _COMPARISONS:
        raise NotRepeatable("it looks at the port in a way that is not known here")
    operator, left, right = (statement["match"][key] for key in ("op", "left", "right"))
    if isinstance(right, str) and right.startswith("@"):
        yield _match(operator, _original(left), right)
    elif isinstance(right, dict) and "set" in right:
        if operator not in ("==", "in"):
            raise NotRepeatable("it excludes an unnamed set of ports")
        yield from _repeat_elements(left, right["set"], captured)
    elif operator in ("==", "in"):
        yield from _repeat_elements(left, [right], captured)
    elif isinstance(right, int) or "range" in right:
        yield _match(operator, _original(left), right)
    else:
        raise NotRepeatable("it looks at the port in a way that is not known here")


def _repeat_elements(left: Any, elements: Sequence[Any], captured: ranges.Ranges) -> Iterator[Any]:
    if "payload" not in left:
        raise NotRepeatable("it looks port and other things up in an unnamed set")
    for each in elements:
        first, last = each["range"] if isinstance(each, dict) and "range" in each else (each, each)
        if not isinstance(first, int) or not isinstance(last, int):
            raise NotRepeatable("it looks at the port in a way that is not known here")
        if _is_captured(first, last, captured):
            yield _match("==", _ORIGINAL, each)


def _original(left: Any) -> Any:
    """Put the port that was asked for in place of that of the packet."""
    if "payload" in left:
        return _ORIGINAL
    if "concat" not in left:
        raise NotRepeatable("it looks at the port in a way that is not known here")
    return {"concat": [_ORIGINAL if names_port(each) else each for each in left["concat"]]}


# -- words --------------------------------------------------------------------------------------


def repeat_words(rule: Sequence[str], at: int, captured: ranges.Ranges) -> tuple[Repetition, ...]:
    """Repeat a rule, without `-A` and chain, as `repeat_statements` does; raises NotRepeatable."""
    if not _is_accept(rule) or not names_port_in_words(rule):
        return ()
    options = list(words.parse(rule))
    modules = [each.values[0] for each in options if each.name == "-m"]
    for module in modules:
        if module not in words.MODULES:
            raise NotRepeatable(f"it has a part ({module}) that cannot be said twice")
    if any(map(words.depends_on_address, options)):
        raise NotRepeatable(_OF_ADDRESS)
    named = ("--dport", "--dports", "--ports", "--sports")
    ports = [each for each in options if each.name in named]
    (port, *others) = ports
    if others or port.name == "--ports" or (port.name == "--dports" and port.is_negated):
        raise NotRepeatable("it looks at the port in a way that is not known here")
    dropped = ("comment", "tcp") if port.name == "--dport" else ("comment", "multiport")
    rest: list[str] = []
    for each in options:
        is_module = each.name == "-m" and each.values[0] in dropped
        # What else there is of the same match (flags, the source port) stays.
        is_of_port = each is port or each.module == "comment"
        if not (is_module or is_of_port or each.name == "-j"):
            rest += each.words
    negation = ("!",) if port.is_negated else ()
    made = []
    for text in port.values[0].split(","):
        first, _, last = text.partition(":")
        if not port.is_negated and not _is_captured(int(first), int(last or first), captured):
            continue
        original = ("-m", "conntrack", *negation, "--ctorigdstport", text)
        about = captured if port.is_negated else ((int(first), int(last or first)),)
        made.append(_repetition((*_with_tcp(rest), "--dport", str(at), *original), at, about))
    return tuple(made)


def _with_tcp(rest: Sequence[str]) -> list[str]:
    """Name the match of TCP behind its protocol, before its options."""
    place = next(
        number for number in range(len(rest)) if rest[number : number + 2] == ["-p", "tcp"]
    )
    return [*rest[: place + 2], "-m", "tcp", *rest[place + 2 :]]


def names_port_in_words(rule: Sequence[str]) -> bool:
    """Whether a rule looks at the destination port of TCP."""
    is_tcp = any(tuple(rule[n : n + 2]) == ("-p", "tcp") for n in range(len(rule)))
    return is_tcp and any(name in rule for name in ("--dport", "--dports", "--ports"))


def _is_accept(rule: Sequence[str]) -> bool:
    return any(tuple(rule[n : n + 2]) == ("-j", "ACCEPT") for n in range(len(rule)))
