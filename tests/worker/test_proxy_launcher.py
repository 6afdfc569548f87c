"""What becomes of a process that the service manager has started to be the proxy."""

import os
import subprocess
from pathlib import Path

from istio_hostagent.host import processes, proxyunit
from istio_hostagent.supervise import specs

LAUNCHER = f"{processes.PACKAGE}/workers/launch.py"
UNITS = Path(processes.PACKAGE).parent / "systemd"
NAMESPACE = os.stat("/proc/self/ns/net").st_ino
ODD = "'quotes\" $HOME `id` \\ and\nlines"


def launch(words: bytes) -> subprocess.CompletedProcess[str]:
    command = ["/usr/bin/python3", "-IS", LAUNCHER, "proxy"]
    environment = {"HOSTAGENT_SECRET": "not for the proxy"}
    done = subprocess.run(command, input=words, capture_output=True, env=environment, timeout=60)
    return subprocess.CompletedProcess(command, done.returncode, "", done.stderr.decode())


def test_it_becomes_the_program_with_what_was_written_and_nothing_else(tmp_path: Path) -> None:
    show = 'printf "%s|" "$@" > shown; env -0 >> shown; readlink /proc/self/fd/0 >> shown'
    argv = ("/bin/sh", "-c", show, "sh", "a b", ODD, "")
    spec = specs.ProcessSpec("proxy", argv, (("ODD", ODD),), 0, 0, str(tmp_path))
    done = launch(proxyunit.render_launch(spec, NAMESPACE))
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "shown").read_text()
    assert shown.startswith(f"a b|{ODD}||")
    assert f"ODD={ODD}\0" in shown
    assert "HOSTAGENT_SECRET" not in shown
    assert shown.endswith("/dev/null\n")


def test_what_cannot_be_started_is_named() -> None:
    spec = specs.ProcessSpec("proxy", ("/nonexistent/envoy",), (), 0, 0)
    done = launch(proxyunit.render_launch(spec, NAMESPACE))
    assert done.returncode == 1
    assert "/nonexistent/envoy: No such file or directory" in done.stderr


def test_it_refuses_another_network_namespace_and_to_be_started_by_hand() -> None:
    spec = specs.ProcessSpec("proxy", ("/bin/true",), (), 0, 0)
    done = launch(proxyunit.render_launch(spec, NAMESPACE + 1))
    assert done.returncode == 1
    assert "ISTIO_HOSTAGENT_PROXY_UNIT=no" in done.stderr
    assert "istio-hostagent.service alone" in launch(b"").stderr


def test_both_units_have_one_sandbox_but_for_what_tproxy_needs() -> None:
    texts = [
        (UNITS / f"istio-proxy{which}@.service").read_text().splitlines()
        for which in ("", "-transparent")
    ]
    plain, transparent = (
        {line for line in text if not line.startswith(("#", "Description="))} for text in texts
    )
    # The resolver of names runs in the first alone, and keeps them.
    places = "ReadWritePaths=/run/istio-hostagent -/var/log/istio"
    kept = f"{places} -/var/lib/istio-hostagent/names"
    assert plain - transparent == {"CapabilityBoundingSet=", "PrivateUsers=yes", kept}
    assert transparent - plain == {
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "AmbientCapabilities=CAP_NET_ADMIN",
        places,
    }
