"""The exact rules of each configuration. `make golden` rewrites them; the diff is the review."""

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from istio_hostagent.config import build, model
from istio_hostagent.redirect import nft, policy, units, xtables, xtrender

CASES = Path(__file__).parent / "cases"
FACTS = model.HostFacts(
    proxy_uid=998,
    proxy_gid=997,
    ssh_ports=(22,),
    addresses=(ip_address("10.1.0.2"), ip_address("fd00:1::2")),
    users=(("systemd-resolve", 101, 102), ("daemon", 1, 1)),
    name_servers=(ip_address("127.0.0.53"), ip_address("fd00:1::53")),
    control_groups=(
        model.ControlGroup("cron.service", "/system.slice/cron.service", 4711),
        model.ControlGroup("/batch.slice", "/batch.slice", 815),
    ),
    own_group="/system.slice/istio-hostagent.service",
)
CLUSTER = b"CA_ADDR=istiod.istio-system.svc:15012\n"
TRUST = model.Trust(is_root_only=True)


def redirection_of(case: Path) -> model.Redirection:
    layers = (
        model.Layer("hostagent.env", None, TRUST),
        model.Layer("cluster.env", CLUSTER, TRUST),
        model.Layer("sidecar.env", case.read_bytes(), TRUST),
    )
    outcome = build.build_config(layers, FACTS)
    assert outcome.config, outcome.problems
    return outcome.config.redirection


def render(case: Path) -> str:
    ruleset = policy.build_ruleset(redirection_of(case), FACTS)
    addresses = "".join(f"# on lo: {each}\n" for each in ruleset.loopback_addresses)
    return addresses + "".join(map(nft.render_nft, ruleset.tables))


def render_legacy(case: Path) -> str:
    # Legacy tables cannot tell units apart.
    ruleset = units.without_units(policy.build_ruleset(redirection_of(case), FACTS))
    lines = []
    for family in xtables.Family:
        lines.append(f"# {family.value}")
        for table in xtrender.render(ruleset, family):
            lines += [f"*{table.name}", *table.lines()] if table.chains else ()
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("form", [render, render_legacy])
@pytest.mark.parametrize("case", sorted(CASES.glob("*.env")), ids=lambda path: path.stem)
def test_rules_match_golden(case: Path, form: Callable[[Path], str]) -> None:
    expected = case.with_suffix(".nft" if form is render else ".xtables")
    text = form(case)
    if os.environ.get("HOSTAGENT_GOLDEN") == "rewrite":
        expected.write_text(text)
    assert text == expected.read_text()


def test_every_golden_has_its_case() -> None:
    cases = {path.stem for path in CASES.glob("*.env")}
    for form in ("nft", "xtables"):
        assert cases == {path.stem for path in CASES.glob(f"*.{form}")}
