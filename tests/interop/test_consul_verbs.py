"""`register` and `deregister` against a real Consul: what its catalogue has afterwards."""

import http.server
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.config import services
from tests.lab import consul, netns
from tests.lab.consul import Consul
from tests.lab.waiting import eventually

ADDRESS = "10.83.0.1"
CHECKOUT = Path(__file__).parents[2]
DOCUMENT = CHECKOUT / "docs" / "consul.md"
WRITERS = 20


@pytest.fixture(scope="module")
def binary() -> Path:
    return consul.find_binary()


@pytest.fixture(scope="module")
def network(binary: Path) -> Iterator[netns.Network]:
    del binary  # without it there is nothing to do here
    with netns.Network("dc", f"{ADDRESS}/24") as made:
        yield made


@pytest.fixture(scope="module")
def server(
    binary: Path, network: netns.Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Consul]:
    with Consul(binary, network, tmp_path_factory.mktemp("consul"), ADDRESS) as made:
        yield made


def start(
    namespace: netns.Namespace,
    *words: str,
    user: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """One verb, as a process with nothing of this one's environment."""
    given = [f"{key}={value}" for key, value in (environment or {}).items()]
    env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"PYTHONPATH={CHECKOUT}", *given]
    command = [*env, netns.PYTHON, "-m", "istio_hostagent", *words]
    return subprocess.Popen(
        namespace.argv(command, user),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def verb(
    namespace: netns.Namespace,
    *words: str,
    status: int = 0,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """What a verb prints on both outputs; it must end with this status."""
    process = start(namespace, *words, environment=environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, out + err
    return out, err


def test_a_service_is_in_the_catalogue_as_it_was_described(
    network: netns.Network, server: Consul
) -> None:
    out, _ = verb(
        network,
        *("register", "svc1", "10.83.0.7", "http:7000", "9000"),
        *("-l", "version=v1,canary", "-a", "team=shop", "-s", "web"),
    )
    assert out == (
        "svc1 at 10.83.0.7, port 7000 (http): registered (ID istio-hostagent:svc1:10.83.0.7:7000)\n"
        "svc1 at 10.83.0.7, port 9000 (9000): registered (ID istio-hostagent:svc1:10.83.0.7:9000)\n"
    )
    first, second = sorted(
        server.get("catalog", "service", "svc1"), key=lambda each: each["ServicePort"]
    )
    assert (first["ServiceAddress"], first["ServicePort"]) == ("10.83.0.7", 7000)
    assert first["ServiceTags"] == ["version|v1", "canary|"]
    assert first["ServiceMeta"] == {
        "protocol": "http",
        "port-name": "http",
        "registered-by": "istio-hostagent",
        "labels": "version,canary",
        "serviceaccount": "web",
        "team": "shop",
    }
    assert second["ServiceMeta"]["protocol"] == "tcp"

    again, _ = verb(
        network,
        *("register", "svc1", "10.83.0.7", "http:7000", "9000"),
        *("-l", "version=v1,canary", "-a", "team=shop", "-s", "web"),
    )
    assert again.count("registered already") == 2
    assert len(server.get("catalog", "service", "svc1")) == 2

    out, _ = verb(network, "deregister", "svc1", "10.83.0.7", "--port", "9000")
    assert out == "deregistered istio-hostagent:svc1:10.83.0.7:9000\n"
    eventually(lambda: set(server.instances("svc1")) == {("10.83.0.7", 7000)}, "one is left")
    verb(network, "deregister", "svc1", "10.83.0.7")
    eventually(lambda: not server.get("catalog", "service", "svc1"), "the last one goes")
    assert "svc1" not in server.get("catalog", "services")


def test_what_others_have_registered_or_added_stays(
    network: netns.Network, server: Consul
) -> None:
    theirs = {"ID": "theirs", "Name": "db", "Address": "10.83.0.8", "Port": 3306}
    server.put("agent", "service", "register", body={**theirs, "Tags": ["primary"]})
    out, _ = verb(network, "register", "db", "10.83.0.8", "3306", "-l", "x=y")
    assert "somebody else" in out and "ID theirs" in out
    assert set(server.instances("db")) == {("10.83.0.8", 3306)}
    assert server.get("agent", "service", "theirs")["Tags"] == ["primary"]

    verb(network, "register", "db", "10.83.0.9", "3306", "-l", "version=v1,zone=a")
    own = "istio-hostagent:db:10.83.0.9:3306"
    edited = server.get("agent", "service", own)
    body = {
        "ID": own,
        "Name": "db",
        "Address": "10.83.0.9",
        "Port": 3306,
        "Tags": [*edited["Tags"], "blessed"],
        "Meta": {**edited["Meta"], "ticket": "4711"},
        "Weights": {"Passing": 7, "Warning": 1},
    }
    server.put("agent", "service", "register", body=body)
    out, _ = verb(network, "register", "db", "10.83.0.9", "3306", "-l", "version=v2,zone=a")
    assert "changed" in out
    after = server.get("agent", "service", own)
    assert sorted(after["Tags"]) == ["blessed", "version|v2", "zone|a"]
    assert after["Meta"]["ticket"] == "4711"
    assert after["Weights"]["Passing"] == 7
    # A label that is not wanted any more goes, and no tag of others.
    verb(network, "register", "db", "10.83.0.9", "3306", "-l", "zone=a")
    assert sorted(server.get("agent", "service", own)["Tags"]) == ["blessed", "zone|a"]
    verb(network, "deregister", "db", "10.83.0.8")
    verb(network, "deregister", "db", "10.83.0.9")


def test_twenty_at_once_lose_and_double_nothing(network: netns.Network, server: Consul) -> None:
    def run(number: int) -> int:
        # Each is there twice: two admins do the same.
        address = f"10.83.1.{number // 2 + 1}"
        process = start(network, "register", "many", address, "http:8080", "9090")
        process.communicate(timeout=120)
        return process.returncode

    with ThreadPoolExecutor(WRITERS) as pool:
        assert list(pool.map(run, range(WRITERS))) == [0] * WRITERS
    wanted = {(f"10.83.1.{n + 1}", port) for n in range(WRITERS // 2) for port in (8080, 9090)}
    assert set(server.instances("many")) == wanted
    assert len(server.get("catalog", "service", "many")) == len(wanted)

    def take_away(number: int) -> int:
        process = start(network, "deregister", "many", f"10.83.1.{number + 1}")
        process.communicate(timeout=120)
        return process.returncode

    with ThreadPoolExecutor(WRITERS) as pool:
        assert list(pool.map(take_away, range(WRITERS // 2))) == [0] * (WRITERS // 2)
    eventually(lambda: not server.get("catalog", "service", "many"), "all are gone")


def test_an_agent_that_is_killed_meanwhile_loses_and_doubles_nothing(
    binary: Path, tmp_path: Path
) -> None:
    with (
        netns.Network("dc2", f"{ADDRESS}/24") as network,
        Consul(binary, network, tmp_path, ADDRESS) as server,
    ):
        ports = [str(7000 + number) for number in range(20)]
        writers = [
            start(network, "register", f"s{n}", "10.83.0.7", *ports) for n in range(WRITERS // 2)
        ]
        eventually(lambda: bool(server.get("agent", "services")), "they have begun")
        server.kill()
        server.start()
        for writer in writers:
            out, err = writer.communicate(timeout=120)
            # Whoever had to wait too long says so, and is asked to try again.
            assert writer.returncode in (0, 75), out + err
        for number in range(WRITERS // 2):
            verb(network, "register", f"s{number}", "10.83.0.7", *ports)
            wanted = {("10.83.0.7", int(port)) for port in ports}
            found = server.get("catalog", "service", f"s{number}")
            assert {(each["ServiceAddress"], each["ServicePort"]) for each in found} == wanted
            assert len(found) == len(wanted)


def test_what_is_not_there_cannot_be_deregistered(
    binary: Path, network: netns.Network, server: Consul, tmp_path: Path
) -> None:
    _, err = verb(network, "deregister", "nothing", "10.83.0.7", status=1)
    assert "no nothing at 10.83.0.7 is registered" in err
    verb(network, "register", "here", "10.83.0.7", "80")
    _, err = verb(network, "deregister", "here", "10.83.0.8", status=1)
    assert "no here at 10.83.0.8 is registered" in err
    _, err = verb(network, "deregister", "here", "10.83.0.7", "--port", "81", status=1)
    assert "port 81" in err
    with netns.Namespace("other") as other:
        network.join(other, "10.83.0.2/24")
        with Consul(binary, other, tmp_path, "10.83.0.2", name="node2", server=ADDRESS):
            _, err = verb(other, "deregister", "here", "10.83.0.7", status=1)
            assert "is not registered at this agent of Consul but at that of server" in err
    assert set(server.instances("here")) == {("10.83.0.7", 80)}
    verb(network, "deregister", "here", "10.83.0.7")


def test_who_may_not_is_told_by_name_and_a_token_lets_in(binary: Path, tmp_path: Path) -> None:
    with (
        netns.Network("dc3", f"{ADDRESS}/24") as network,
        Consul(binary, network, tmp_path, ADDRESS, has_acl=True) as server,
    ):
        words = ("register", "web", "10.83.0.7", "8080")
        _, err = verb(network, *words, status=77)
        assert "403" in err and "Permission denied" in err and "CONSUL_HTTP_TOKEN" in err
        other = server.make_token('service "other" { policy = "write" }')
        _, err = verb(network, *words, status=77, environment={"CONSUL_HTTP_TOKEN": other})
        assert "403" in err and other not in err
        assert "web" not in server.get("catalog", "services")
        token = tmp_path / "token"
        token.write_text(server.make_token('service "web" { policy = "write" }') + "\n")
        token.chmod(0o600)
        verb(network, *words, environment={"CONSUL_HTTP_TOKEN_FILE": str(token)})
        eventually(
            lambda: set(server.instances("web")) == {("10.83.0.7", 8080)}, "it is in the catalogue"
        )
        _, err = verb(network, "deregister", "web", "10.83.0.7", status=1)
        assert "may not read it" in err
        given = {"CONSUL_HTTP_TOKEN": token.read_text().strip()}
        verb(network, "deregister", "web", "10.83.0.7", environment=given)


def read_catalogue(network: netns.Network, token: str, *names: str) -> dict[str, Any]:
    """What the worker of the agent finds with this token."""
    access = services.Access(address=f"http://127.0.0.1:{consul.HTTP_PORT}", token=token)
    request = {"access": access._asdict(), "names": names, "version": 0, "wait_s": 10.0}
    done = subprocess.run(
        network.argv([netns.PYTHON, "-m", "istio_hostagent.workers.catalogue"]),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(json.loads(done.stdout))


def test_services_that_the_token_may_not_see_are_not_gone(binary: Path, tmp_path: Path) -> None:
    """Else a policy that is changed would end the capture of all that it hides."""
    with (
        netns.Network("dc6", f"{ADDRESS}/24") as network,
        Consul(binary, network, tmp_path, ADDRESS, has_acl=True) as server,
    ):
        web = 'service "web" { policy = "write" }'
        given = {"CONSUL_HTTP_TOKEN": server.make_token(web)}
        verb(network, "register", "web", "10.83.0.7", "8080", environment=given)
        eventually(lambda: "web" in server.get("catalog", "services"), "it is in the catalogue")
        nodes = 'node_prefix "" { policy = "read" }'
        sees_web = server.make_token(f"{web}\n{nodes}")
        assert read_catalogue(network, sees_web)["addresses"] == ["10.83.0.7"]
        assert read_catalogue(network, sees_web, "web")["addresses"] == ["10.83.0.7"]
        # What nobody has registered yet keeps nobody from the others.
        assert read_catalogue(network, sees_web, "db", "web")["addresses"] == ["10.83.0.7"]
        refused: list[tuple[str, tuple[str, ...], str]] = [
            (server.make_token(nodes), (), "any service"),
            (server.make_token(nodes), ("web",), "the instances of web"),
            (given["CONSUL_HTTP_TOKEN"], ("web",), "the instances of web"),
        ]
        for token, names, what in refused:
            error = read_catalogue(network, token, *names)["error"]
            assert error["code"] == "registry-refused"
            assert error["message"].endswith(f"the token does not let us see {what}")


def documented(language: str) -> list[str]:
    """The blocks of the document in this language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )


def test_the_commands_of_the_document_do_what_it_says(
    network: netns.Network, server: Consul
) -> None:
    lines = [line for block in documented("sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("istio-hostagent ")]
    assert len(commands) == 3
    for line in commands:
        verb(network, *line.split()[1:])
    assert set(server.instances("svc1")) == {("10.0.0.8", 7000)}
    assert server.get("catalog", "service", "svc1")[0]["ServiceTags"] == ["version|v1"]
    eventually(lambda: not server.get("catalog", "service", "mysql"), "it was taken away again")
    verb(network, "deregister", "svc1", "10.0.0.8")


def test_the_policy_of_the_document_is_enough(binary: Path, tmp_path: Path) -> None:
    [policy] = documented("hcl")
    with (
        netns.Network("dc5", f"{ADDRESS}/24") as network,
        Consul(binary, network, tmp_path, ADDRESS, has_acl=True) as server,
    ):
        given = {"CONSUL_HTTP_TOKEN": server.make_token(policy)}
        words = ("web", "10.83.0.7", "8080")
        verb(network, "register", *words, environment=given)
        assert set(server.instances("web")) == {("10.83.0.7", 8080)}
        out, _ = verb(network, "register", *words, environment=given)
        assert "registered already" in out
        verb(network, "deregister", *words[:2], environment=given)


def test_a_check_follows_the_service(network: netns.Network, server: Consul) -> None:
    class Well(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(type(self).status)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    listener = network.bind(ADDRESS, 8888)
    listener.listen()
    asked = http.server.HTTPServer((ADDRESS, 8888), Well, bind_and_activate=False)
    asked.socket.close()
    asked.socket = listener
    thread = threading.Thread(target=asked.serve_forever)
    thread.start()
    try:
        verb(network, "register", "tcp", ADDRESS, "8888", "--check", "tcp")
        verb(network, "register", "down", ADDRESS, "8889", "--check", "tcp")
        url = f"http://{ADDRESS}:8888/"
        verb(network, "register", "web", ADDRESS, "8888", "--check", url)
        well = {(ADDRESS, 8888): "passing"}
        eventually(lambda: server.instances("tcp") == well, "the port is open")
        eventually(lambda: server.instances("web") == well, "the answer is 200")
        assert server.instances("down") == {(ADDRESS, 8889): "critical"}
        Well.status = 503
        eventually(lambda: server.instances("web")[(ADDRESS, 8888)] == "critical", "it is seen")
        # Without a check it counts as well.
        verb(network, "register", "web", ADDRESS, "8888")
        eventually(lambda: server.instances("web")[(ADDRESS, 8888)] == "passing", "none is left")
    finally:
        asked.shutdown()
        thread.join()
        asked.server_close()
    for name, port in (("tcp", "8888"), ("down", "8889"), ("web", "8888")):
        verb(network, "deregister", name, ADDRESS, "--port", port)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("register", "we_b", "10.0.0.7", "80"), "name of a service", id="name"),
        pytest.param(("register", "web", "vm1", "80"), "not an IP address", id="address"),
        pytest.param(("register", "web", "127.0.0.1", "80"), "other hosts", id="loopback"),
        pytest.param(("register", "web", "10.0.0.7", "http:x"), "'x' is not a port", id="port"),
        pytest.param(("register", "web", "10.0.0.7", "80", "80"), "80 is there twice", id="twice"),
        pytest.param(("register", "web", "10.0.0.7", "a/b:80"), "name of a port", id="port-name"),
        pytest.param(
            ("register", "web", "10.0.0.7", "80", "-a", "a.io/b=c"), "a.io/b", id="annotation"
        ),
        pytest.param(("register", "web", "10.0.0.7", "80", "-l", "=v"), "KEY=VALUE", id="label"),
        pytest.param(
            ("register", "web", "10.0.0.7", "80", "--check", "ping"), "neither tcp", id="check"
        ),
        pytest.param(("register", "web", "10.0.0.7"), "PORT", id="no-port"),
        pytest.param(("deregister", "web"), "ADDRESS", id="no-address"),
    ],
)
def test_a_mistake_is_one_sentence(
    network: netns.Network, words: tuple[str, ...], said: str
) -> None:
    _, err = verb(network, *words, status=64)
    assert said in err.splitlines()[-1]


def test_where_nobody_answers_that_is_said(network: netns.Network) -> None:
    away = {"CONSUL_HTTP_ADDR": f"{ADDRESS}:1"}
    _, err = verb(network, "deregister", "web", "10.0.0.7", status=75, environment=away)
    assert f"Consul at http://{ADDRESS}:1" in err and "CONSUL_HTTP_ADDR" in err


def test_through_a_unix_socket_and_by_tls(binary: Path, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    sock = tmp_path / "consul.sock"
    settings = {
        "addresses": {"http": f"unix://{sock} 127.0.0.1"},
        "ports": {"http": 8500, "https": 8501, "grpc": -1, "grpc_tls": -1, "dns": -1},
        "tls": {
            "defaults": {
                "ca_file": str(certificates / "ca.pem"),
                "cert_file": str(certificates / "server.pem"),
                "key_file": str(certificates / "server.key"),
            },
            "https": {"verify_incoming": True},
        },
    }
    with (
        netns.Network("dc4", f"{ADDRESS}/24") as network,
        Consul(binary, network, tmp_path, ADDRESS, settings=settings) as server,
    ):
        verb(
            network,
            "register",
            "a",
            "10.83.0.7",
            "80",
            environment={"CONSUL_HTTP_ADDR": f"unix://{sock}"},
        )
        assert "a" in server.get("catalog", "services")
        tls = {
            "CONSUL_HTTP_ADDR": "https://127.0.0.1:8501",
            "CONSUL_CACERT": str(certificates / "ca.pem"),
            "CONSUL_CLIENT_CERT": str(certificates / "client.pem"),
            "CONSUL_CLIENT_KEY": str(certificates / "client.key"),
            "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
        }
        verb(network, "register", "b", "10.83.0.7", "80", environment=tls)
        assert "b" in server.get("catalog", "services")
        wrong = {**tls, "CONSUL_TLS_SERVER_NAME": "other.example"}
        _, err = verb(network, "register", "c", "10.83.0.7", "80", status=77, environment=wrong)
        assert "CONSUL_TLS_SERVER_NAME" in err
        stranger = {**tls, "CONSUL_CACERT": str(certificates / "other.pem")}
        _, err = verb(network, "register", "c", "10.83.0.7", "80", status=77, environment=stranger)
        assert "CONSUL_CACERT" in err
        plain = {"CONSUL_HTTP_ADDR": "https://127.0.0.1:8500"}
        _, err = verb(network, "register", "c", "10.83.0.7", "80", status=77, environment=plain)
        assert "speaks TLS" in err
        missing = {**tls, "CONSUL_CLIENT_KEY": str(tmp_path / "nothing")}
        _, err = verb(network, "register", "c", "10.83.0.7", "80", status=77, environment=missing)
        assert f"{tmp_path / 'nothing'}: No such file" in err


def make_certificates(directory: Path) -> Path:
    """A CA, another one, a server and a client, by openssl(1)."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"),
            *("-days", "2"),
        )
    for name in ("server", "client"):
        (directory / f"{name}.ext").write_text(
            f"subjectAltName=DNS:{name}.dc1.consul\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.pem", "-days", "1"),
        )
    return directory


def test_without_root_it_is_the_callers_own_process(
    network: netns.Network, server: Consul
) -> None:
    words = ("register", "mine", "10.83.0.7", "80", "--json")
    process = start(network, *words, user=65534)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (instance,) = json.loads(out)["instances"]
    assert instance == {"id": "istio-hostagent:mine:10.83.0.7:80", "outcome": "registered"}
    assert set(server.instances("mine")) == {("10.83.0.7", 80)}
    verb(network, "deregister", "mine", "10.83.0.7")
