"""The table of keys as documentation: for istio-hostagent.env(5), the commented template, and a
table in docs/redirection.md.

Not here: anything that a running agent needs. What is rendered depends on the tables alone, so the
files made from it can be compared with it in a test.
"""

import textwrap

from . import foreign, settings
from .setting import Setting

_TEMPLATE_HEAD = """\
# Settings of istio-hostagent on this host; see istio-hostagent.env(5).
#
# Every key may stand here, Istio's as well. cluster.env and sidecar.env in /var/lib/istio/envoy
# win over this file. Each line below shows a key of the agent with its default. The file is read,
# never run: KEY=value, quotes as in a shell, $NAME of keys before it.
"""

# Between these lines a document has what is made from the table of settings.
_BEGIN = "<!-- made from the table of settings, by make golden -->"
_END = "<!-- as far as here -->"


def render_keys_rst() -> str:
    """Every known key as reStructuredText: definition lists, a heading for each kind."""
    parts = [
        _heading("Keys with effect"),
        *(_entry(row.key, _describe(row)) for row in settings.SETTINGS),
        _heading("Families of keys"),
        *(_entry(f"{prefix}*", text) for prefix, text in foreign.FAMILIES.items()),
        _heading("Keys handed on to pilot-agent"),
        *(_entry(key, text) for key, text in sorted(foreign.PASSED.items())),
        _heading("Known keys without effect"),
        *(
            _entry(key, f"No effect here, because {text}.")
            for key, text in sorted(foreign.INERT.items())
        ),
    ]
    return "\n".join(parts)


def render_template() -> str:
    """The text of ``hostagent.env``: the agent's own keys, commented out, with help."""
    guarded = [
        row.key
        for row in settings.SETTINGS
        if row.is_guarded and not row.is_proxys and not row.key.startswith(settings.OWN_PREFIX)
    ]
    text = "Of Istio's keys these count only here, or where only root can write"
    names = ", ".join(guarded)
    head = f"{_TEMPLATE_HEAD}#\n" + _comment(f"{text}: {names}.")
    own = (row for row in settings.SETTINGS if row.key.startswith(settings.OWN_PREFIX))
    entries = (f"{_comment(row.help)}#{row.key}={row.default}\n" for row in own)
    return "\n".join((head, *entries))


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 95, break_on_hyphens=False))


def update_redirection_md(text: str) -> str:
    """The text of ``docs/redirection.md`` with its table of keys as it must be.

    Raises ValueError if the two lines that enclose the table are not there.
    """
    before, begin, rest = text.partition(f"{_BEGIN}\n")
    _, end, after = rest.partition(f"{_END}\n")
    if not (begin and end):
        raise ValueError("no place for the table of keys")
    rows = ["| key | default | what it says |", "| --- | --- | --- |"]
    for row in settings.REDIRECTION:
        default = f"`{row.default}`" if row.default else "empty"
        says = (_escape(row.help) + _guard(row)).replace("|", "\\|")
        rows.append(f"| `{row.key}` | {default} | {says} |")
    return "".join((before, begin, *(f"{line}\n" for line in rows), end, after))


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}\n"


def _describe(row: Setting[object]) -> str:
    # A long list needs places where a line can end.
    text = row.default if len(row.default) < 60 else row.default.replace(",", ", ")
    default = f" Default: ``{text}``." if text else ""
    return _escape(row.help) + default + _guard(row)


def _escape(text: str) -> str:
    """A lone star would begin emphasis."""
    return text.replace("*", "\\*")


def _guard(row: Setting[object]) -> str:
    writers = "only root and istio-proxy" if row.is_proxys else "only root"
    return f" Counts only from a file that {writers} can write." if row.is_guarded else ""


def _entry(key: str, text: str) -> str:
    return f"``{key}``\n{textwrap.indent(textwrap.fill(text, 90), '    ')}\n"
