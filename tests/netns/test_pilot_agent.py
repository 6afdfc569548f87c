"""Mode pilot-agent, with a stand-in in its place: what it is given, and what becomes of it."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, MakeHost, configure

# Writes down what it was given, reads the certificate as pilot-agent would, and says ready.
STAND_IN = f"""\
#!/usr/bin/python3
{CAPTURING}
import http.server, json, os, stat, subprocess, sys

seen = {{"argv": sys.argv, "environment": dict(os.environ), "uid": os.getuid(), "gid": os.getgid(),
        "groups": os.getgroups(), "directory": os.getcwd(), "files": {{}}}}
credentials = os.environ["PROV_CERT"]
for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
    path = os.path.join(credentials, name)
    status = os.stat(path)
    seen["files"][name] = [stat.S_IMODE(status.st_mode), status.st_uid, open(path).read(27)]
os.makedirs("./etc/istio/proxy/written-by-it", exist_ok=True)
seen["root"] = open(os.environ["XDS_ROOT_CA"]).read(27)
with open(os.path.join(os.path.dirname(sys.argv[0]), "out", "seen.json"), "w") as out:
    json.dump(seen, out)

proxy = subprocess.Popen(["/usr/bin/sleep", "600"])
with open(os.path.join(os.path.dirname(sys.argv[0]), "out", "proxy.pid"), "w") as out:
    out.write(str(proxy.pid))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass

http.server.HTTPServer(("127.0.0.1", 15021), Handler).serve_forever()
"""


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    made = make_host()
    bin_base = made.directory / "bin"
    bin_base.mkdir()
    (bin_base / "out").mkdir()
    os.chown(bin_base / "out", *proxy_user())
    stand_in = bin_base / "pilot-agent"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    made.write_hostagent(
        ISTIO_HOSTAGENT_PROXY="auto",
        ISTIO_BIN_BASE=str(bin_base),
        ISTIO_AGENT_FLAGS="'--proxyLogLevel warning'",
    )
    return made


def seen_by(host: Host) -> dict[str, object]:
    return dict(json.loads((host.directory / "bin" / "out" / "seen.json").read_text()))


def test_it_is_the_default_where_it_is_installed_and_gets_our_certificate(host: Host) -> None:
    configure(host, ISTIO_META_CLUSTER_ID="Kubernetes", ISTIO_METAJSON_LABELS='\'{"app":"a b"}\'')
    host.start()
    host.verb("wait", "--timeout", "60")
    report = host.status()
    assert report["proxy"]["kind"] == "pilot-agent"
    assert "not removed" not in host.log_text()

    seen = seen_by(host)
    uid, gid = proxy_user()
    assert seen["argv"] == [
        str(host.directory / "bin" / "pilot-agent"),
        "proxy",
        "--log_target",
        "stderr",
        "--proxyLogLevel",
        "warning",
    ]
    assert (seen["uid"], seen["gid"], seen["groups"]) == (uid, gid, [])

    environment = seen["environment"]
    assert isinstance(environment, dict)
    credentials = "./var/run/secrets/workload-spiffe-credentials"
    assert environment["PROV_CERT"] == credentials
    assert environment["XDS_ROOT_CA"] == f"{credentials}/root-cert.pem"
    assert environment["OUTPUT_CERTS"] == ""
    assert environment["CLOUD_PLATFORM"] == "none"
    assert environment["POD_NAMESPACE"] == "default"
    assert environment["INSTANCE_IP"] == "10.78.0.11"
    assert environment["ISTIO_META_CLUSTER_ID"] == "Kubernetes"
    assert environment["ISTIO_METAJSON_LABELS"] == '{"app":"a b"}'
    assert not [name for name in environment if name.startswith("ISTIO_HOSTAGENT_")]

    files = seen["files"]
    assert isinstance(files, dict)
    assert files["key.pem"][:2] == [0o600, uid]
    assert "PRIVATE KEY" in files["key.pem"][2]
    assert "CERTIFICATE" in files["cert-chain.pem"][2]
    assert "CERTIFICATE" in str(seen["root"])


def test_it_dies_with_the_agent_and_is_started_again_when_it_ends(host: Host) -> None:
    configure(host)
    host.start()
    host.verb("wait", "--timeout", "60")
    first = host.status()["proxy"]["pid"]
    its_envoy = int((host.directory / "bin" / "out" / "proxy.pid").read_text())
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{its_envoy}").exists(), "its Envoy went with it")
    eventually(lambda: host.status()["proxy"]["starts"] == 2, "the second start")
    host.verb("wait", "--timeout", "60")
    second = host.status()["proxy"]["pid"]
    host.kill()
    eventually(lambda: not Path(f"/proc/{second}").exists(), "it is gone")
