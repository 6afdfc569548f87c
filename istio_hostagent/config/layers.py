"""Which file sets what: the assignments of all layers, and what the layers disagree on.

Not here: what a key means (`settings`, `foreign`) and what its value becomes (`build`). A value is
trusted as far as the least trusted file that it was made from: a root-only file that expands a
variable of another file gains nothing by it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import Problem
from . import envfile, model

MAX_WARNINGS = 100


class Origin(NamedTuple):
    """One assignment. `layer` counts from the lowest precedence; `trust` is that of the value."""

    file: str
    line: int
    value: str
    layer: int
    trust: model.Trust
    is_extension: bool  # made from the former value of the same key
    is_made_up: bool = False  # of a value that more can change than the file itself
    uses: tuple[str, ...] = ()  # the variables it is made from


class Collected(NamedTuple):
    """The assignments of each key in rising precedence, and what was wrong with the files."""

    history: dict[str, list[Origin]]
    problems: list[Problem]
    warnings: list[Problem]


def collect(layers: Sequence[model.Layer]) -> Collected:
    """Parse every layer, lowest precedence first.

    The last two are Istio's. Its own scripts disagree on which of them wins, so a key on which
    they differ is a warning.
    """
    found = Collected({}, [], [])
    values: dict[str, str] = {}
    for number, layer in enumerate(layers):
        if layer.data is None:
            continue
        parsed = envfile.parse_bytes(layer.data, layer.file, values)
        found.problems.extend(parsed.problems)
        found.warnings.extend(parsed.warnings)
        for assignment in parsed.assignments:
            _add(found, layer, number, assignment)
            values[assignment.key] = assignment.value
    _compare(found, layers)
    return found


def _add(
    found: Collected, layer: model.Layer, number: int, assignment: envfile.Assignment
) -> None:
    sets = found.history.setdefault(assignment.key, [])
    is_extension = assignment.key in assignment.uses
    if sets and sets[-1].layer == number and not is_extension:
        message = f"{assignment.key} is set on line {sets[-1].line} already; this line counts"
        warn(found.warnings, Problem(layer.file, assignment.line, message))
    trust = _find_trust(found, layer.trust, assignment)
    is_made_up = trust.level < layer.trust.level
    where = layer.file, assignment.line
    uses = assignment.uses
    origin = Origin(*where, assignment.value, number, trust, is_extension, is_made_up, uses)
    sets.append(origin)


def _find_trust(found: Collected, own: model.Trust, assignment: envfile.Assignment) -> model.Trust:
    least = own
    for name in assignment.uses:
        for used in found.history.get(name, [])[-1:]:
            if used.trust.level < least.level:
                detail = f"it is made from {name} of {used.file}:{used.line}: {used.trust.detail}"
                least = used.trust._replace(detail=detail)
    return least


def _compare(found: Collected, layers: Sequence[model.Layer]) -> None:
    cluster, sidecar = len(layers) - 2, len(layers) - 1
    for key, sets in found.history.items():
        last = sets[-1]
        other = next((origin for origin in reversed(sets) if origin.layer == cluster), None)
        if last.layer != sidecar or other is None or last.is_extension:
            continue
        if last.value != other.value:
            message = f"{key} differs from {other.file}:{other.line}; this file wins"
            warn(found.warnings, Problem(last.file, last.line, message))


def warn(warnings: list[Problem], warning: Problem) -> None:
    """Add a warning, up to 100 and one that says that there are more."""
    if len(warnings) < MAX_WARNINGS:
        warnings.append(warning)
    elif len(warnings) == MAX_WARNINGS:
        warnings.append(Problem(warning.file, 0, "there are more warnings, which are not shown"))
