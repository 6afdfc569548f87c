"""Classes with named fields: what this program uses of the library's dataclasses, and no more.

The library compiles six methods from text for each class, 0.4 ms, and loads inspect, ast and dis
for it: a tenth of the CPU before the first certificate, and 1.5 MB for as long as the agent lives.
Here all classes share their methods. What is offered means what it means there, down to the names;
type checkers are shown the library's own.
Not here: inheritance of fields, class variables, ordering, slots, anything after the constructor.
A value that every verb loads, or of which there are thousands, is a NamedTuple.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

_Class = TypeVar("_Class", bound=type)
_Value = TypeVar("_Value")

_MISSING: Any = object()


class _Field:
    """One field; without `repr` it is never shown, without `compare` it does not count."""

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Callable[[], Any] | None = None,
        repr: bool = True,  # noqa: A002 # the library's name
        compare: bool = True,
    ) -> None:
        self.name = ""
        self.default = default
        self.default_factory = default_factory
        self.repr = repr
        self.compare = compare

    def make_default(self) -> Any:
        """The content where none is given, _MISSING if one has to be."""
        return self.default if self.default_factory is None else self.default_factory()


def _initialize(self: Any, /, *args: Any, **kwargs: Any) -> None:
    given = dict(zip(self.__match_args__, args, strict=False))
    if len(args) > len(given):
        raise TypeError(f"{type(self).__name__} has {len(given)} fields, not {len(args)}")
    if wrong := kwargs.keys() & given.keys() or kwargs.keys() - self.__value_fields__.keys():
        raise TypeError(f"{type(self).__name__}: no such field, or twice: {', '.join(wrong)}")
    given |= kwargs
    for name, each in self.__value_fields__.items():
        content = given[name] if name in given else each.make_default()
        if content is _MISSING:
            raise TypeError(f"{type(self).__name__} needs {name}")
        self.__dict__[name] = content


def _equals(self: Any, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return self.__value_key__(self.__dict__) == self.__value_key__(other.__dict__)


def _hash(self: Any) -> int:
    return hash(self.__value_key__(self.__dict__))


def _represent(self: Any) -> str:
    shown = (each.name for each in self.__value_fields__.values() if each.repr)
    content = ", ".join(f"{name}={self.__dict__[name]!r}" for name in shown)
    return f"{type(self).__qualname__}({content})"


def _refuse(self: Any, name: str, *_: Any) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen: {name}")


def _dataclass(*, frozen: bool = False) -> Callable[[_Class], _Class]:
    """Make a class of a body that names fields; a frozen one has a hash and never changes."""

    def make(made: _Class) -> _Class:
        fields = {}
        for name in made.__annotations__:
            given = made.__dict__.get(name, _MISSING)
            each = given if isinstance(given, _Field) else _Field(default=given)
            each.name = name
            fields[name] = each
            if each is given and each.default is _MISSING:
                delattr(made, name)
            elif each is given:
                setattr(made, name, each.default)
        compared = [name for name, each in fields.items() if each.compare]
        shared = {
            "__value_fields__": fields,
            "__value_key__": staticmethod(itemgetter(*compared) if compared else _no_content),
            "__match_args__": tuple(fields),
            "__init__": _initialize,
            "__eq__": _equals,
            "__hash__": _hash if frozen else None,
            "__repr__": _represent,
        }
        if frozen:
            shared |= {"__setattr__": _refuse, "__delattr__": _refuse}
        for name, what in shared.items():
            setattr(made, name, what)
        return made

    return make


def _no_content(_: Mapping[str, Any]) -> tuple[()]:
    return ()


def _replace(value: _Value, /, **changes: Any) -> _Value:
    """The same value with other content in some fields."""
    return type(value)(**{name: value.__dict__[name] for name in _names(value)} | changes)


def _names(value: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = value.__match_args__
    return names


def _fields(value: Any) -> tuple[_Field, ...]:
    """The fields of a value or class, each with its `name`."""
    return tuple(value.__value_fields__.values())


def _is_dataclass(value: object) -> bool:
    """Whether it is a value or class made here."""
    return hasattr(value, "__value_fields__")


if TYPE_CHECKING:
    from dataclasses import dataclass, field, fields, is_dataclass, replace
else:
    dataclass, field, fields = _dataclass, _Field, _fields
    is_dataclass, replace = _is_dataclass, _replace

__all__ = ["dataclass", "field", "fields", "is_dataclass", "replace"]
