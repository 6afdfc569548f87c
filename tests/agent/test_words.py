"""What a host says of itself in one line, for what is wrong with each of its parts."""

import pytest

from istio_hostagent.cli import report
from istio_hostagent.errors import NotPermitted
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, SIDECAR, TEXTS

TWO_MISTAKES = b"ISTIO_SERVICE_CIDR=nonsense\nISTIO_INBOUND_PORTS=70000\n"


def test_without_a_configuration_the_file_is_named_that_is_waited_for() -> None:
    host = MemoryHost()
    host.start()
    host.settle()
    assert host.summary == f"not in the mesh: waiting for {CLUSTER} or {SIDECAR}"
    assert host.notifier.said["READY"] == "1"


def test_status_says_what_is_encrypted(host: MemoryHost) -> None:
    host.join()
    status = host.status
    assert "nothing outbound is encrypted" in status["encryption"]
    assert "encryption     nothing outbound is encrypted" in report.render(status)


def test_the_first_mistake_is_named_with_its_line_and_the_number_of_the_others() -> None:
    host = MemoryHost()
    host.write(CLUSTER, TWO_MISTAKES)
    host.start()
    host.settle()
    assert host.summary.startswith(f"not in the mesh: {CLUSTER}:1: ")
    assert host.summary.endswith("(and 1 more)")


def test_a_mistake_on_a_joined_host_is_said_with_what_it_leaves(host: MemoryHost) -> None:
    host.join()
    host.write(CLUSTER, TWO_MISTAKES)
    host.until(lambda: CLUSTER in host.summary, 2.0, "the mistake is said")
    assert host.is_in_mesh
    assert f"; {CLUSTER}:1: " in host.summary
    assert host.summary.endswith("; the previous configuration stays active")


def test_a_missing_proxy_is_named_with_the_places_searched(host: MemoryHost) -> None:
    host.programs.clear()
    host.start()
    host.settle()
    expected = "not in the mesh: no envoy found; searched /usr/local/bin/envoy, /usr/bin/envoy ("
    assert host.summary.startswith(expected)
    assert "install Envoy" in host.summary
    assert "ISTIO_HOSTAGENT_ENVOY" in host.summary


def test_what_keeps_the_rules_out_is_named(host: MemoryHost) -> None:
    host.space.refusals.append(NotPermitted("table inet istio_hostagent belongs to nobody"))
    host.start()
    host.until(lambda: "belongs to nobody" in host.summary, 5.0, "what is wrong")
    assert host.summary.startswith("not in the mesh: redirection: ")
    host.until(lambda: host.is_in_mesh, 60.0, "in the mesh")
    assert "belongs" not in host.summary


def test_a_ca_that_refuses_is_named_while_the_rest_goes_on(host: MemoryHost) -> None:
    host.join()
    host.ca = machine.Ca.REFUSING
    assert not host.answer("renew")["ok"]
    assert host.is_in_mesh
    assert "; certificate: told certificate-refused" in host.summary
    host.write(CLUSTER, TEXTS["rules"])
    assert host.answer("reload")["ok"]


def test_files_that_are_not_watched_are_said_and_looked_at_every_few_seconds(
    host: MemoryHost,
) -> None:
    host.join()
    host.watcher.is_deaf = True
    host.watcher.last_error = "root has no inotify instance left: sysctl -w ..."
    host.write(CLUSTER, TEXTS["rules"])
    host.settle()
    shown = report.render(host.status)
    assert "changed files are noticed some seconds late: root has no inotify instance" in shown
    host.until(lambda: "rules" in host.rules_of, 6.0, "what the file says")
    host.watcher.last_error = ""
    assert "some seconds late" not in report.render(host.status)


def start_refused(host: MemoryHost, ca: machine.Ca) -> None:
    """Start where the CA gives nothing, and wait until that is said."""
    host.ca = ca
    host.start()
    host.until(lambda: "told c" in host.summary, 10.0, "the CA's no")


@pytest.mark.parametrize("ca", [machine.Ca.REFUSING, machine.Ca.MISSING])
def test_an_operators_reload_tries_again_at_once_whatever_the_pause(
    host: MemoryHost, ca: machine.Ca
) -> None:
    start_refused(host, ca)
    host.run(60.0)
    # What has been mended is nowhere to be seen: no file has changed.
    host.ca = machine.Ca.GOOD
    assert host.answer("reload")["ok"]
    host.until(lambda: host.is_in_mesh, 10.0, "in the mesh")


def test_an_operators_reload_waits_for_what_the_ca_says(host: MemoryHost) -> None:
    start_refused(host, machine.Ca.REFUSING)
    host.ca = machine.Ca.SILENT
    assert "told authority-unavailable" in host.answer("reload")["summary"]


def test_renewal_that_fails_is_told_apart_while_the_certificate_is_good(host: MemoryHost) -> None:
    host.join()
    certificate = host.status["certificate"]
    assert (certificate["renewal"], certificate["failing_since"]) == ("planned", None)
    host.ca = machine.Ca.REFUSING
    host.run(machine.CERTIFICATE_S * 0.7)
    status = host.status
    assert status["in_mesh"]
    assert status["certificate"]["state"] == "held"
    assert status["certificate"]["renewal"] == "failing"
    assert host.clock.now() - 1500 < status["certificate"]["failing_since"] < host.clock.now()
    assert "renewal fails since" in report.render(status)
    host.ca = machine.Ca.GOOD
    assert host.answer("renew")["ok"]
    assert host.status["certificate"]["renewal"] == "planned"
    assert "fails since" not in report.render(host.status)


def test_reload_without_any_configuration_says_so() -> None:
    host = MemoryHost()
    host.start()
    host.settle()
    for text in (None, b"", b"# KEY=value\n"):
        if text is not None:
            host.write(CLUSTER, text)
        answer = host.answer("reload")
        assert (answer["ok"], answer["exit_status"]) == (False, 78)
        assert answer["message"] == f"no configuration yet: {CLUSTER} and {SIDECAR} set nothing"


def test_a_host_with_addresses_of_one_ip_version_carries_nothing_untested_for_ever(
    host: MemoryHost,
) -> None:
    host.change_facts(has_ipv6=True)  # ::1 and nothing else: no route leads anywhere
    host.is_v6_routed = False
    host.join()
    status = host.status
    assert status["redirection"]["findings"], "nothing of IPv6 is tested"
    assert status["redirection"]["state"] == "proven"
    assert "not testable" not in report.render(status)


@pytest.mark.parametrize("ca", [machine.Ca.REFUSING, machine.Ca.MISSING])
def test_no_row_of_the_table_says_again_what_the_first_one_says(
    host: MemoryHost, ca: machine.Ca
) -> None:
    start_refused(host, ca)
    assert report.render(host.status).count("told c") == 1
    host.write(CLUSTER, TWO_MISTAKES)
    host.until(lambda: CLUSTER in host.summary, 10.0, "the mistakes")
    shown = report.render(host.status)
    for problem in host.status["configuration"]["problems"]:
        assert shown.count(problem) == 1


def test_packets_that_disprove_are_said_with_where_to_look(host: MemoryHost) -> None:
    host.join()
    host.steal("10.96.")
    host.until(lambda: "packets show that the rules do not hold" in host.summary, 5.0, "said")
    assert "nft list ruleset" in host.summary


def test_a_full_disk_is_told_from_missing_rights(host: MemoryHost) -> None:
    host.disk.is_full = True
    host.start()
    host.until(lambda: "df -h" in host.summary, 10.0, "what to do")
    assert "chown" not in report.render(host.status)
