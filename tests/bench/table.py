"""The table that people read: a line for each row, its peers below it, notes at the end."""

from collections.abc import Iterator, Sequence

from .rows import Missing, Row, Samples

_HEAD = ("what", "budget", "figure", "min - max", "ratio", "verdict")
_MAX_REASON = 300
_WIDTHS = (54, 10, 10, 17, 8, 0)


def render(judged: Sequence[Row]) -> str:
    """Give the whole table; a ratio stands beside the peer that it compares with."""
    lines = [_line(_HEAD), _line(tuple("-" * max(width - 1, 7) for width in _WIDTHS))]
    notes: list[str] = []
    told: set[str] = set()
    for row in judged:
        mark = ""
        if not isinstance(row.outcome, Missing):
            for note in row.outcome.notes:
                if note not in notes:
                    notes.append(note)
                mark += f"[{notes.index(note) + 1}]"
        lines += _render_row(row, mark, is_told=row.verdict in told)
        told.add(row.verdict)
    lines += [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
    met = sum(row.verdict == "met" for row in judged)
    missed = sum(row.verdict == "NOT met" for row in judged)
    missing = sum(isinstance(row.outcome, Missing) for row in judged)
    lines.append(f"budgets: {met} met, {missed} not met; {missing} rows not measured")
    return "\n".join(lines)


def _render_row(row: Row, mark: str, *, is_told: bool) -> Iterator[str]:
    budget = row.budget
    limit = "" if budget.limit is None else f"<= {_number(budget.limit)}"
    what = f"{budget.what} {mark}".rstrip()
    if isinstance(row.outcome, Missing):
        verdict = "not measured, as above" if is_told else row.verdict[:_MAX_REASON]
        yield _line((what, limit, "", "", "", verdict))
        return
    figure = "" if row.figure is None else f"{_number(row.figure)} {budget.unit}"
    yield _line((what, limit, figure, _spread(row.outcome.samples), "", row.verdict))
    for name, peer in row.outcome.peers.items():
        ratio = row.ratio(peer)
        cells = (
            f"    beside: {name}",
            "",
            f"{_number(peer.median)} {budget.unit}",
            _spread(peer),
            "" if ratio is None else f"{ratio:.2f} x",
            "",
        )
        yield _line(cells)


def _spread(samples: Samples) -> str:
    return f"{_number(samples.low)} - {_number(samples.high)}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return "".join(padded).rstrip()
