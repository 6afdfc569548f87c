"""The table of keys as documentation: for istio-hostagent.env(5), and as the commented template.

Not here: anything that a running agent needs. What is rendered depends on the tables alone, so the
files made from it can be compared with it in a test.
"""

import textwrap

from . import foreign, settings

_TEMPLATE_HEAD = """\
# Settings of istio-hostagent on this host; see istio-hostagent.env(5).
#
# Every key may stand here, Istio's as well. cluster.env and sidecar.env in /var/lib/istio/envoy
# win over this file. Each line below shows a key of the agent with its default. The file is read,
# never run: KEY=value, quotes as in a shell, $NAME of keys before it.
"""


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
    parts = [_TEMPLATE_HEAD]
    for row in settings.SETTINGS:
        if row.key.startswith(settings.OWN_PREFIX):
            help_lines = textwrap.wrap(row.help, 95)
            lines = [*(f"# {line}" for line in help_lines), f"#{row.key}={row.default}", ""]
            parts.append("\n".join(lines))
    return "\n".join(parts)


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}\n"


def _describe(row: settings.Setting[object]) -> str:
    default = f" Default: ``{row.default}``." if row.default else ""
    writers = "only root and istio-proxy" if row.is_proxys else "only root"
    guarded = f" Counts only from a file that {writers} can write." if row.is_guarded else ""
    # A lone star would begin emphasis.
    return row.help.replace("*", "\\*") + default + guarded


def _entry(key: str, text: str) -> str:
    return f"``{key}``\n{textwrap.indent(textwrap.fill(text, 90), '    ')}\n"
