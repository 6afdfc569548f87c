"""Where each value comes from and what it replaced: the lines of `config --explain`.

Not here: how they are printed (`cli`). Values of secret families are hidden.
"""

from typing import NamedTuple

from . import foreign, settings
from . import reader as reading

HIDDEN = "(hidden)"


class Value(NamedTuple):
    """One key, set or known. `file` is empty and `line` 0 for a built-in default.

    `overrides` holds (file, line, text) of what it replaced, lowest precedence first. `status` is
    one of `in effect`, `refused`, `not used: KEY is set`, `handed on to pilot-agent`, `no effect:
    REASON`, `unknown`.
    """

    key: str
    text: str
    file: str
    line: int
    overrides: tuple[tuple[str, int, str], ...]
    status: str


def explain(reader: reading.Reader, *, server_name: str) -> tuple[Value, ...]:
    """Every key of the table in its order, then the other keys that the files set, by name."""
    rows = {row.key: row for row in settings.SETTINGS}
    values = []
    for key in [*rows, *sorted(reader.history.keys() - rows.keys())]:
        row = rows.get(key)
        default = reader.render_default(row) if row else ""
        if key == settings.ISTIOD_SAN.key:
            default = server_name
        values.append(_explain_key(reader, key, default))
    return tuple(values)


def _explain_key(reader: reading.Reader, key: str, default: str) -> Value:
    sets = [
        (
            origin.file,
            origin.line,
            HIDDEN if key.startswith(foreign.SECRET_FAMILIES) else origin.value,
        )
        for origin in reader.history.get(key, [])
    ]
    status = _describe_effect(reader, key)
    if not sets:
        return Value(key, default, "", 0, (), status)
    file, line, text = sets[-1]
    # An empty value means the default: shown is what counts, at the line that chose it.
    return Value(key, text if text.strip() else default, file, line, tuple(sets[:-1]), status)


def _describe_effect(reader: reading.Reader, key: str) -> str:
    if key in reader.refused:
        return "refused"
    for first, stand_in in settings.FALLBACKS.items():
        if key == stand_in and reader.find(key) and reader.find(first):
            return f"not used: {first} is set"
    if key in settings.KEYS or key.startswith(settings.CA_HEADER.key):
        return "in effect"
    if key in foreign.INERT:
        return f"no effect: {foreign.INERT[key]}"
    if key in foreign.PASSED or foreign.find_family(key):
        return foreign.PASSED_ON
    return "unknown"
