"""What documents take from the program. `make golden` rewrites what is made from tables."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from istio_hostagent.config import consulaccess, foreign, manual, model, settings
from istio_hostagent.redirect import model as rules
from istio_hostagent.redirect import policy
from tests.golden.test_rules import FACTS

TOP = Path(__file__).parents[2]
REDIRECTION = TOP / "docs" / "redirection.md"
TEMPLATE = TOP / "etc" / "hostagent.env"


@pytest.mark.parametrize(
    ("path", "update"),
    [
        pytest.param(TEMPLATE, lambda _text: manual.render_template(), id="hostagent.env"),
        pytest.param(REDIRECTION, manual.update_redirection_md, id="redirection.md"),
    ],
)
def test_document_has_what_the_table_of_settings_says(
    path: Path, update: Callable[[str], str]
) -> None:
    text = path.read_text(encoding="utf-8")
    if os.environ.get("HOSTAGENT_GOLDEN") == "rewrite":
        path.write_text(update(text), encoding="utf-8")
        text = path.read_text(encoding="utf-8")
    assert text == update(text)


def test_a_document_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place"):
        manual.update_redirection_md("# Nothing\n")


def tables() -> tuple[rules.Table, ...]:
    """Those of a configuration with everything that has chains of its own, in both modes."""
    common = model.Redirection(
        outbound=model.CidrSet(is_all=True),
        inbound=model.PortSet(is_all=True),
        dns=model.Dns(is_captured=True, is_every_server=True),
        drops_invalid=True,
    )
    modes = (common, common._replace(transparent=model.Transparent(1337, 133)))
    return tuple(table for each in modes for table in policy.build_ruleset(each, FACTS).tables)


def picture() -> tuple[str, str]:
    """The hooks, and the ways through them."""
    _, _, text = REDIRECTION.read_text(encoding="utf-8").partition("```text\n")
    hooks, _, ways = text.partition("```")[0].partition("(1) Outbound")
    return hooks, ways


def test_the_picture_has_every_chain_that_the_kernel_calls_with_its_priority() -> None:
    called = {
        (chain.hook.priority, chain.name)
        for table in tables()
        for chain in table.chains
        if chain.hook is not None
    }
    # Names of others are set in by two more blanks.
    drawn = re.findall(r"(-?\d+)  (\w+) ", picture()[0])
    assert {(int(priority), name) for priority, name in drawn} == called


def test_the_ways_lead_through_chains_that_there_are() -> None:
    there = {chain.name for table in tables() for chain in table.chains}
    named = set(re.findall(r"ISTIO_\w+", picture()[1]))
    assert named and named <= there


def test_the_text_has_the_numbers_of_routing_rules() -> None:
    text = REDIRECTION.read_text(encoding="utf-8")
    mark, table = (int(row.default) for row in (settings.TPROXY_MARK, settings.TPROXY_TABLE))
    rule = f"{rules.RULE_PRIORITY}:  from all fwmark {mark:#x} lookup {table}"
    assert f"{rule} proto {rules.ROUTING_PROTOCOL}" in text


# No keys: what the renewal hook finds in its environment.
# Switches of istiod itself.
OF_ISTIOD = ("PILOT_ENABLE_METADATA_EXCHANGE", "PILOT_ENABLE_ALPN_FILTER")
# Nor what setupMeshEx.sh reads on the administrator's machine, and `mesh` instead of it.
OF_ADMINS = {
    *("GCP_OPTS", "ISTIO_CP", "ISTIO_RUN", "ISTIO_SECRET_PREFIX", "K8S_CLUSTER"),
    *("SERVICE_NAMESPACE", "BASE64_DECODE", "SETUP_ISTIO_VM_SCRIPT", "ISTIO_STAGING"),
}
# Nor what the compose file of Istio 1.0 for Consul had, and ours does without.
OF_COMPOSE = ("CONSUL_ADVERTISE", "DOCKER_GATEWAY")
TOLD_TO_HOOKS = {f"ISTIO_HOSTAGENT_{name}" for name in ("CERTS", "IDENTITY", "SERIAL")}

# ... and what programs find in theirs.
OF_ENVIRONMENT = {f"{name}_DIRECTORY" for name in ("CONFIGURATION", "STATE", "RUNTIME")}
OF_ENVIRONMENT |= {"HTTP_PROXY"}


@pytest.mark.parametrize("path", sorted((TOP / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_document_names_no_key_that_there_is_not(path: Path) -> None:
    others = {*TOLD_TO_HOOKS, *OF_ISTIOD, *OF_ADMINS, *OF_COMPOSE, *OF_ENVIRONMENT}
    known = {*settings.KEYS, *foreign.PASSED, *foreign.INERT, *others, *consulaccess.VARIABLES}
    named = re.findall(r"`([A-Z]\w*_[A-Z0-9_]+)(?:=[^`]*)?`", path.read_text(encoding="utf-8"))
    assert {key for key in named if not foreign.find_family(key)} <= known


def test_every_key_of_capture_is_in_the_text_before_the_table_of_keys() -> None:
    text, _, _ = REDIRECTION.read_text(encoding="utf-8").partition("## The keys")
    assert [row.key for row in settings.REDIRECTION if row.key not in text] == []
