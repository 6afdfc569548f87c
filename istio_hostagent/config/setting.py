"""One key as a row of a table: name, kind of value, default, one line of help.

Not here: the rows (`settings`, `identitykeys`).
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from . import model

T_co = TypeVar("T_co", covariant=True)


class Setting(NamedTuple, Generic[T_co]):
    """One key.

    `is_guarded`: it names a command, user, binary or output path, and counts only from a file that
    only root can write (design invariant 5). What a key can do decides: a value that `is_harmless`
    counts from any file, and a key that `is_proxys` from one that only root and istio-proxy can
    write, since nobody else than istio-proxy acts on it.
    `was_without_effect`: an earlier version took any text of it, from any file. Such a text, where
    it has been accepted, is never an error: the default counts, which is what worked.
    """

    key: str
    parse: Callable[[str], T_co]
    default: str
    help: str
    is_guarded: bool = False
    is_proxys: bool = False
    was_without_effect: bool = False
    is_harmless: Callable[[Any], bool] = lambda _value: False

    def may_come_from(self, trust: model.Trust, value: object) -> bool:
        """Whether a value other than the default counts from a file that so many can write."""
        is_owners = trust.is_root_only or (self.is_proxys and trust.is_proxys)
        return not self.is_guarded or is_owners or self.is_harmless(value)
