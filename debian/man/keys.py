"""Write the key list of istio-hostagent.env(5) to standard output, from the tables of the program.

Run from the top of the source by debian/rules; a key is in the manual page because it is in a
table, and in no other way.
"""

import sys
from collections.abc import Iterator

from istio_hostagent.config import foreign, settings

GUARDED = "Counts only in a file that nobody but root can change."


def entry(name: str, *sentences: str) -> str:
    """Render one key as an item of a definition list."""
    text = " ".join(sentence for sentence in sentences if sentence)
    for special in "\\*`_|":
        text = text.replace(special, f"\\{special}")
    return f"**{name}**\n    {text}\n"


def lines() -> Iterator[str]:
    """Give the list in parts, first the keys that the agent acts on itself."""
    yield "Keys of the agent\n-----------------\n"
    for row in settings.SETTINGS:
        default = f"Default: {row.default}." if row.default else ""
        yield entry(row.key, row.help, default, GUARDED if row.is_guarded else "")
    yield "Keys handed on to pilot-agent\n-----------------------------\n"
    for name, help_text in {**foreign.PASSED, **foreign.FAMILIES}.items():
        yield entry(f"{name}..." if name in foreign.FAMILIES else name, help_text)
    yield "Keys without effect\n-------------------\n"
    yield "Istio knows these; here each is reported, with the reason.\n"
    for name, reason in sorted(foreign.INERT.items()):
        yield entry(name, f"{reason[0].upper()}{reason[1:]}.")


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()))
