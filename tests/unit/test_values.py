"""Our classes with named fields mean what the library's mean."""

import dataclasses
from typing import Any

import pytest

from istio_hostagent import values

LIBRARIES: list[Any] = [dataclasses, values]
both = pytest.mark.parametrize("library", LIBRARIES, ids=["dataclasses", "ours"])


def make(library: Any) -> Any:
    """The same class, by the library and by us."""

    @library.dataclass(frozen=True)
    class Pair:
        """Two fields, and two with a default."""

        left: int
        right: str
        extra: tuple[int, ...] = ()
        made: list[int] = library.field(default_factory=list, compare=False)

        @property
        def text(self) -> str:
            return f"{self.left}{self.right}"

    return Pair


def make_secret(library: Any) -> Any:
    @library.dataclass(frozen=True)
    class Secret:
        name: str
        key: bytes = library.field(repr=False)

    return Secret


def make_empty(library: Any) -> Any:
    @library.dataclass(frozen=True)
    class Nothing:
        pass

    return Nothing


def make_open(library: Any) -> Any:
    @library.dataclass()
    class Open:
        count: int = 0

    return Open


@both
class TestBoth:
    def test_fields_by_position_and_by_name(self, library: Any) -> None:
        pair = make(library)
        value = pair(1, right="a")
        assert (value.left, value.right, value.extra, value.made) == (1, "a", (), [])
        assert value.text == "1a"
        assert pair(1, "a").made is not value.made
        assert pair.extra == ()
        assert not hasattr(pair, "made")

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            ((1,), {}),
            ((1, "a", (), [], 5), {}),
            ((1, "a"), {"left": 2}),
            ((1, "a"), {"unknown": 2}),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, library: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        with pytest.raises(TypeError):
            make(library)(*args, **kwargs)

    def test_equal_by_content_within_one_class(self, library: Any) -> None:
        pair, other = make(library), make(library)
        assert pair(1, "a") == pair(1, "a", made=[3])
        assert hash(pair(1, "a")) == hash(pair(1, "a", made=[3]))
        assert pair(1, "a") != pair(1, "b")
        assert pair(1, "a") != other(1, "a")
        assert pair(1, "a") != (1, "a", ())

    def test_without_fields_all_of_one_class_are_equal(self, library: Any) -> None:
        one, other = make_empty(library), make_empty(library)
        assert one() == one()
        assert one() != other()
        assert len({one(), one(), other()}) == 2

    def test_frozen_values_do_not_change(self, library: Any) -> None:
        value = make(library)(1, "a")
        with pytest.raises(AttributeError):
            value.left = 2
        with pytest.raises(AttributeError):
            value.other = 2
        with pytest.raises(AttributeError):
            del value.left
        assert value.left == 1

    def test_others_change_and_have_no_hash(self, library: Any) -> None:
        made = make_open(library)
        value = made()
        value.count += 1
        assert value == made(1)
        with pytest.raises(TypeError):
            hash(value)

    def test_secrets_are_not_shown(self, library: Any) -> None:
        text = repr(make_secret(library)("me", b"hidden"))
        assert text.endswith("Secret(name='me')")

    def test_a_changed_copy(self, library: Any) -> None:
        value = make(library)(1, "a")
        changed = library.replace(value, left=2)
        assert (changed.left, changed.right, changed.made is value.made) == (2, "a", True)
        assert value.left == 1
        with pytest.raises(TypeError):
            library.replace(value, unknown=1)

    def test_patterns_take_the_fields_in_order(self, library: Any) -> None:
        assert make(library).__match_args__ == ("left", "right", "extra", "made")

    def test_the_names_of_its_fields(self, library: Any) -> None:
        value = make(library)(1, "a")
        assert [each.name for each in library.fields(value)] == ["left", "right", "extra", "made"]
        assert library.is_dataclass(value)
        assert library.is_dataclass(type(value))
        assert not library.is_dataclass(1)
