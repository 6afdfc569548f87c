"""The gauges of `status --metrics`, of a host that something happens to."""

import re

from istio_hostagent import gauges
from istio_hostagent.host import capturecount
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, OWN, TEXTS


def read(host: MemoryHost) -> dict[str, float]:
    """Every sample by its name, each after its help and its type."""
    text = gauges.render(host.status)
    assert text.endswith("\n")
    return parse(text)


def parse(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    described = typed = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            described = line.split()[2]
            assert not any(name.partition("{")[0] == described for name in found), "together"
        elif line.startswith("# TYPE "):
            _, _, typed, kind = line.split()
            assert (kind == "counter") == typed.endswith("_total")
        else:
            match = re.fullmatch(r"([a-z_]+)({[a-z]+=.*})? (-?[0-9.]+)", line)
            assert match is not None, line
            assert described == typed == match[1]
            found[match[1].removeprefix(gauges.PREFIX) + (match[2] or "")] = float(match[3])
    return found


def test_they_say_until_when_and_how_often_it_has_failed() -> None:
    host = MemoryHost()
    host.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_OUTPUTS='pem:/a pem:/b'\n")
    host.write(CLUSTER, TEXTS["A"])
    host.unwritable.add("/b")
    host.start()
    seen = read(host)
    assert (seen["in_mesh"], seen["certificate_held"]) == (0, 0)
    assert "certificate_not_after_timestamp_seconds" not in seen
    host.until(lambda: host.is_in_mesh, 30.0, "in the mesh")
    host.run(5.0)
    seen = read(host)
    assert (seen["in_mesh"], seen["certificate_held"], seen["outputs_failed"]) == (1, 1, 1)
    held = host.certificates["/certs"][-1]
    assert seen["certificate_not_after_timestamp_seconds"] == round(held.not_after, 3)
    assert seen["certificate_renewal_failures"] == 0
    assert "certificate_failing_since_timestamp_seconds" not in seen
    host.ca = machine.Ca.REFUSING
    host.run(machine.CERTIFICATE_S * 0.7)
    seen = read(host)
    assert seen["certificate_renewal_failures"] > 0
    assert 0 < host.clock.now() - seen["certificate_failing_since_timestamp_seconds"] < 2000
    assert seen["in_mesh"] == 1
    assert f'identity="{held.identity}",serial="{held.serial}"' in gauges.render(host.status)


def test_causes_are_samples_with_their_names(host: MemoryHost) -> None:
    host.join()
    assert not [name for name in read(host) if name.startswith("cause")]
    host.ca = machine.Ca.REFUSING
    assert not host.answer("renew")["ok"]
    assert read(host)['cause{part="certificate",code="certificate-refused"}'] == 1


def test_what_users_without_rights_see_is_the_same(host: MemoryHost) -> None:
    host.captured = capturecount.Captured(outbound=7, inbound=3)
    host.join()
    seen = read(host)
    assert host.published.state is not None
    assert parse(gauges.render(host.published.state)) == seen
    assert seen['captured_connections_total{direction="outbound"}'] == 7
    assert seen['captured_connections_total{direction="inbound"}'] == 3
    assert seen["redirection_proven"] == seen["proxy_ready"] == seen["up"] == 1


def test_a_silent_agent_is_down_and_its_certificate_still_ends(host: MemoryHost) -> None:
    host.join()
    held = host.certificates["/certs"][-1]
    seen = parse(gauges.render_silence(host.published.state))
    assert (seen["up"], seen["in_mesh"]) == (0, 0)
    assert seen["certificate_not_after_timestamp_seconds"] == round(held.not_after, 3)
    assert parse(gauges.render_silence(None)) == {"up": 0, "in_mesh": 0}
