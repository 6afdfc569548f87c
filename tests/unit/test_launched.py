"""What was started is recognised by the next agent, also by one of another version."""

import json

import pytest

from istio_hostagent.config import model
from istio_hostagent.supervise import builds, launched, specs
from tests.unit.test_specs import FACTS, build


def all_specs() -> list[specs.ProcessSpec]:
    envoy = builds.build(build(), FACTS, model.ProxyKind.ENVOY, "/usr/bin/envoy", "/run/x")
    pilot = builds.build(build(), FACTS, model.ProxyKind.PILOT_AGENT, "/usr/bin/pilot", "/run/x")
    return [envoy.spec, pilot.spec]


@pytest.mark.parametrize("spec", all_specs(), ids=lambda spec: spec.name)
def test_what_was_written_down_is_read_as_it_was(spec: specs.ProcessSpec) -> None:
    assert launched.parse(json.loads(json.dumps(launched.render(spec)))) == spec


def test_what_other_versions_say_besides_is_passed_over_and_what_they_do_not_has_its_default() -> (
    None
):
    spec = all_specs()[0]
    value = json.loads(json.dumps(launched.render(spec)))
    del value["secret_socket"]
    assert launched.parse({**value, "younger": [1]}) == spec


@pytest.mark.parametrize("value", [None, [], {}, {"name": "envoy"}, {"doors": [[1]]}, "x"])
def test_what_cannot_be_read_is_an_error(value: object) -> None:
    with pytest.raises(ValueError, match="not what was started"):
        launched.parse(value)


def test_what_is_asked_of_a_process_makes_it_no_other_one() -> None:
    envoy, pilot = all_specs()
    runs = specs.launched(envoy, 17, 3)
    assert specs.run_alike(runs._replace(doors=(), listens=(), resolver_version=3), envoy)
    # Whether its file is still there is asked apart.
    assert specs.run_alike(runs._replace(program=(1, 2, 3)), envoy)
    assert not specs.run_alike(runs._replace(argv=(*runs.argv, "-x")), envoy)
    without = specs.launched(envoy._replace(shutdown_s=0, argv=("/usr/bin/envoy",)), 0, 0)
    assert not specs.run_alike(without, envoy)
    assert not specs.run_alike(pilot._replace(environment=()), pilot)
    assert not specs.run_alike(pilot._replace(has_unit=False), pilot)


def test_the_files_of_what_runs_are_known_by_its_arguments() -> None:
    built = builds.build(build(), FACTS, model.ProxyKind.ENVOY, "/usr/bin/envoy", "/run/x")
    assert builds.running(built.spec).directory == built.directory
    assert builds.running(all_specs()[1]).directory == "/run/x/pilot-agent"


@pytest.mark.parametrize(
    ("changed", "has_unit"),
    [({}, True), ({"has_unit": False}, False), ({"envoy": "/home/me/envoy"}, False)],
    ids=["as usual", "told not to", "a program that the sandbox hides"],
)
def test_it_has_a_unit_where_that_shows_all_it_needs(
    changed: dict[str, object], *, has_unit: bool
) -> None:
    config = build(**changed)
    program = config.proxy.envoy or "/usr/bin/envoy"
    built = builds.build(config, FACTS, model.ProxyKind.ENVOY, program, "/run/x")
    assert built.spec.has_unit is has_unit
