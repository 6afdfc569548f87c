"""YAML with the line of every value, so that a mistake can be named by file and line.

Values are asked for by their kind; what is not of that kind is a Problem in the list of the
document, and a default comes back. Not here: what the fields mean.
"""

from collections.abc import Iterator
from typing import Any

import yaml

from ..errors import ConfigInvalid, Problem

_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})


class Document:
    """One file: its name and what is wrong in it."""

    def __init__(self, file: str) -> None:
        """Nothing is wrong yet."""
        self.file = file
        self.problems: list[Problem] = []

    def add_problem(self, line: int, message: str) -> None:
        """Note one thing that is wrong; a line of 0 stands for the whole file."""
        self.problems.append(Problem(self.file, line, message))


class Node:
    """A value of a document; `name` is its field. Absent fields are nodes without value."""

    def __init__(self, document: Document, name: str, node: Any, line: int) -> None:
        """`node`: of yaml, or None for what is absent."""
        self._document = document
        self._name = name
        self._node = node
        self.line = line

    @property
    def file(self) -> str:
        """The document's name."""
        return self._document.file

    @property
    def is_absent(self) -> bool:
        """Whether there is nothing, or null."""
        node = self._node
        return node is None or (
            isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
        )

    def field(self, name: str) -> "Node":
        """Return the value of a field of a mapping; an absent one if there is none."""
        for key, value in self._pairs():
            if key.value == name:
                return Node(self._document, name, value, value.start_mark.line + 1)
        return Node(self._document, name, None, self.line)

    def items(self) -> Iterator["Node"]:
        """Return the members of a list."""
        if self.is_absent:
            return
        if not isinstance(self._node, yaml.SequenceNode):
            self.complain("must be a list")
            return
        for each in self._node.value:
            yield Node(self._document, self._name, each, each.start_mark.line + 1)

    def text(self) -> str:
        """Return a text; "" if absent."""
        if self.is_absent:
            return ""
        if not isinstance(self._node, yaml.ScalarNode):
            self.complain("must be a text")
            return ""
        return str(self._node.value)

    def flag(self) -> bool:
        """Return true or false; false if absent."""
        text = self.text().lower()
        if text and text not in _TRUE | _FALSE:
            self.complain("must be true or false")
        return text in _TRUE

    def complain(self, message: str) -> None:
        """Note that this value is wrong: `field: message`."""
        self._document.add_problem(self.line, f"{self._name}: {message}")

    def _pairs(self) -> list[tuple[Any, Any]]:
        if self.is_absent:
            return []
        if not isinstance(self._node, yaml.MappingNode):
            self.complain("must have fields (`name: value`)")
            return []
        return list(self._node.value)


def parse(file: str, text: str) -> tuple[Document, Node]:
    """Return a document and its uppermost value. Raises ConfigInvalid with the line."""
    document = Document(file)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigInvalid([_problem_of(file, error)]) from error
    return document, Node(document, "the file", node, 1)


def load(file: str, text: str) -> list[Any]:
    """Return the documents of a file as plain values. Raises ConfigInvalid with the line."""
    try:
        return [each for each in yaml.load_all(text, yaml.SafeLoader) if each is not None]
    except yaml.YAMLError as error:
        raise ConfigInvalid([_problem_of(file, error)]) from error
    except (ValueError, OverflowError) as error:
        # A date that there is not, a number beyond all bounds.
        raise ConfigInvalid([Problem(file, 0, f"is no YAML: {error}")]) from error


def _problem_of(file: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    words = getattr(error, "problem", None) or str(error)
    return Problem(file, mark.line + 1 if mark else 0, f"is no YAML: {words}")
