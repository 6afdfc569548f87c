"""Every name of an error says what to do."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import istio_hostagent
from istio_hostagent import errors, hints

ROOT = Path(__file__).parents[2]


OF_MESH = ("istio_hostagent.cluster.", "istio_hostagent.cli.mesh")


def names_in_sources() -> set[str]:
    """Every text that is given as a name: CODE= of a line of the log, `code` of a class."""
    found = set()
    for path in (ROOT / "istio_hostagent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "CODE":
                found |= {each.value for each in [node.value] if isinstance(each, ast.Constant)}
            if isinstance(node, ast.FunctionDef) and node.name == "code":
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                texts = (each for value in returned if value for each in ast.walk(value))
                found |= {each.value for each in texts if isinstance(each, ast.Constant)}
    return {name for name in found if isinstance(name, str) and name}


def names_of_errors(kind: type[errors.HostAgentError] = errors.HostAgentError) -> set[str]:
    """But for those of `mesh`, which runs elsewhere and has a manual of its own."""
    is_of_mesh = kind.__module__.startswith(OF_MESH)
    own = set() if is_of_mesh else {kind.code}
    return own.union(*map(names_of_errors, kind.__subclasses__()))


def test_every_name_says_what_to_do() -> None:
    for module in pkgutil.walk_packages(istio_hostagent.__path__, "istio_hostagent."):
        importlib.import_module(module.name)
    assert len(names_in_sources()) > 10
    assert names_in_sources() | names_of_errors() <= hints.HINTS.keys()


def test_what_to_do_is_one_short_sentence() -> None:
    for name, hint in hints.HINTS.items():
        assert re.fullmatch("[a-z]+(-[a-z]+)*", name)
        assert 10 < len(hint) < 180, name
        assert not hint.endswith("."), name


def test_every_error_in_the_log_has_a_name() -> None:
    for path in (ROOT / "istio_hostagent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logger.error":
                (extra,) = [each.value for each in node.keywords if each.arg == "extra"]
                assert isinstance(extra, ast.Name) or "CODE=" in ast.unparse(extra), path
