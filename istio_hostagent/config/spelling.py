"""Which known key an unknown one was probably meant to be.

Finds one letter too many, too few, wrong or in the wrong place, small letters, and a forgotten
`ISTIO_`. The time grows with the length of the names and not with the product of known and unknown
ones.
"""

from collections.abc import Iterable


def _shortened(name: str) -> set[str]:
    # Two names one edit apart have a name in common once each may lose one letter.
    return {name, *(name[:i] + name[i + 1 :] for i in range(len(name)))}


class Speller:
    """Suggests among the `known` names it was given."""

    def __init__(self, known: Iterable[str]) -> None:
        """Index the known names."""
        self._index = {short: name for name in known for short in _shortened(name)}

    def suggest(self, name: str) -> str:
        """The known name that `name` is close to, or empty."""
        if len(name) > 64:
            return ""
        upper = name.upper()
        for candidate in (upper, f"ISTIO_{upper}"):
            for short in sorted(_shortened(candidate), key=len, reverse=True):
                if short in self._index:
                    return self._index[short]
        return ""
