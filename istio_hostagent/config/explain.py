"""Where each value comes from and what it replaced: the lines of `config --explain`.

Not here: how they are printed (`cli`). Values of secret families are hidden.
"""

from typing import NamedTuple

from . import foreign, identitykeys, settings
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


def explain(reader: reading.Reader, *, server_name: str, output_dir: str) -> tuple[Value, ...]:
    """Every key of the table in its order, then the other keys that the files set, by name.

    `server_name`, `output_dir`: what counts where no key says it.
    """
    rows = {row.key: row for row in settings.SETTINGS}
    values = []
    for key in [*rows, *sorted(reader.history.keys() - rows.keys())]:
        row = rows.get(key)
        default = reader.render_default(row) if row else ""
        if key == identitykeys.ISTIOD_SAN.key:
            default = server_name
        elif key == identitykeys.OUTPUT_CERTS.key:
            default = output_dir
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
    stood_for = {fallback: first for first, fallback in settings.FALLBACKS.items()}
    first = stood_for.get(key, "")
    while first:
        if reader.find(key) and reader.find(first):
            return f"not used: {first} is set"
        first = stood_for.get(first, "")
    preferred = reader.find_preferred(key)
    if preferred and reader.find(key):
        return f"not used: {preferred} is set"
    if key in settings.KEYS or key.startswith(identitykeys.CA_HEADER.key):
        return "in effect"
    if key in foreign.INERT:
        return f"no effect: {foreign.INERT[key]}"
    if key in foreign.PASSED or foreign.find_family(key):
        return foreign.PASSED_ON
    return "unknown"
