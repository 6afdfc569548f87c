"""The table that people read: a line for each row, its peers below it, notes at the end.

The line of a row has the budget, our figure, its ratio to the peer of the budget, and the verdict;
`peer:` is that one, `beside:` are others.
"""

from collections.abc import Iterator, Sequence

from .rows import MET, NOT_MET, Missing, Row, Samples

_HEAD = ("what", "budget", "figure", "min - max", "ratio", "verdict")
_MAX_REASON = 300
_WIDTHS = (61, 14, 10, 16, 8, 0)


def render(judged: Sequence[Row]) -> str:
    """Give the whole table; a ratio stands beside the peer that it compares with."""
    lines = [_line(_HEAD), _line(tuple("-" * max(width - 1, 7) for width in _WIDTHS))]
    notes: list[str] = []
    told: set[str] = set()
    for row in judged:
        lines += _render_row(row, _marks(row, notes), told)
    lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    count = {verdict: sum(row.verdict == verdict for row in judged) for verdict in (MET, NOT_MET)}
    unknown = sum(not row.is_known and not row.budget.elsewhere for row in judged)
    elsewhere = sum(bool(row.budget.elsewhere) for row in judged)
    lines.append(
        f"budgets: {count[MET]} met, {count[NOT_MET]} not met; rows: {unknown} not measured or"
        f" not judged, {elsewhere} not measured here"
    )
    return "\n".join(lines)


def _marks(row: Row, notes: list[str]) -> str:
    """The numbers of a row's notes; those that nobody had are added to `notes`."""
    marks = ""
    for note in () if isinstance(row.outcome, Missing) else row.outcome.notes:
        if note not in notes:
            notes.append(note)
        marks += f"[{notes.index(note) + 1}]"
    return marks


def _render_row(row: Row, marks: str, told: set[str]) -> Iterator[str]:
    budget = row.budget
    what = f"{budget.what} {marks}".rstrip()
    limit = "" if budget.limit is None else str(budget.limit)
    if isinstance(row.outcome, Missing):
        yield _line((what, limit, "", "", "", _reason(row.verdict, told)))
        return
    figure = "" if row.figure is None else f"{_number(row.figure)} {budget.unit}"
    ratio = _ratio(row, row.peer)
    yield _line((what, limit, figure, _spread(row.outcome.samples), ratio, row.verdict))
    for name, peer in row.outcome.peers.items():
        is_held_against = budget.limit is not None and budget.limit.peer == name
        title = f"    {'peer' if is_held_against else 'beside'}: {name}"
        if isinstance(peer, Missing):
            reason = _reason(f"not measured: {peer.reason}", told)
            yield _line((title, "", "", "", "", reason))
            continue
        figure = f"{_number(peer.median)} {budget.unit}"
        ratio = "" if is_held_against else _ratio(row, peer)
        yield _line((title, "", figure, _spread(peer), ratio, ""))


def _reason(text: str, told: set[str]) -> str:
    """Tell a reason once."""
    if text in told:
        return "not measured, as above"
    told.add(text)
    return text[:_MAX_REASON]


def _ratio(row: Row, peer: Samples | None) -> str:
    ratio = row.ratio(peer)
    return "" if ratio is None else f"{ratio:.2f} x"


def _spread(samples: Samples) -> str:
    return f"{_number(samples.low)} - {_number(samples.high)}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    # A cell that is too wide moves what follows, and is never joined to it.
    padded = (cell.ljust(width - 1) for cell, width in zip(cells, _WIDTHS, strict=True))
    return " ".join(padded).rstrip()
