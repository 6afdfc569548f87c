"""The manual says what the code has."""

import re
from pathlib import Path

from istio_hostagent import errors, hints
from istio_hostagent.cli import mesh
from istio_hostagent.cli.mesh import cluster_env, outfiles
from istio_hostagent.cluster import balancers, failures, machinecerts, remote, workloads
from istio_hostagent.config import consulaccess

MANUAL = Path(__file__).parents[2] / "debian" / "man" / "istio-hostagent.8.rst"
OF_MESH = MANUAL.with_name("istio-hostagent-mesh.8.rst")


def named(text: str) -> list[str]:
    """The names of errors that a manual lists."""
    _, _, behind = text.partition("Every error also has a name")
    return behind.partition("\n\n")[0].split("*")[1::2]


def codes(*modules: object) -> set[str]:
    """Those of the errors that modules define."""
    return {
        kind.code
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.HostAgentError)
        and kind.__module__ == module.__name__  # type: ignore[attr-defined] # of a module
    }


def test_every_name_of_an_error_is_in_the_manual_and_no_other() -> None:
    _, _, text = MANUAL.read_text().partition("Every error also has a name")
    words = " ".join(text.partition("\n\n")[0].split())
    _, _, names = words.partition("what to do: ")
    listed = re.findall(r"\*([a-z-]+)\*", names)
    assert listed == sorted(hints.HINTS.keys() - {"error"})


def test_every_name_of_an_error_of_mesh_is_in_its_manual_and_no_other() -> None:
    modules = (failures, balancers, machinecerts, remote, workloads, cluster_env, outfiles)
    listed = named(OF_MESH.read_text())
    assert listed == sorted(codes(*modules))


def test_every_verb_of_mesh_is_in_its_manual_by_both_names() -> None:
    text = OF_MESH.read_text()
    for verb in mesh.VERBS:
        assert f"\n**{verb.name}**" in text
        assert not verb.alias or f"**{verb.alias}**" in text


def test_every_variable_that_leads_to_consul_is_in_the_manual() -> None:
    text = MANUAL.read_text()
    assert [name for name in consulaccess.VARIABLES if f"**{name}**" not in text] == []
