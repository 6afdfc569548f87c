"""How a kubeconfig leads to a real API server: each way to be known, and what goes wrong of each."""

import base64
import contextlib
import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cluster as clusters
from tests.lab.cluster import ADMIN, NOBODY, TOKENS, Cluster
from tests.peers import build

from .mesh import Admin

VERB = ("cluster-env", "-o", "out")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters.needed(build.directory("kubernetes"), tmp_path_factory.mktemp("api")) as cluster:
        yield cluster


@pytest.fixture
def admin(tmp_path: Path) -> Admin:
    return Admin(tmp_path / "home", tmp_path / "home" / "config")


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def configure(admin: Admin, api: Cluster, *, user: dict[str, Any], **cluster: object) -> None:
    config = api.kubeconfig(**user)
    entry = config["clusters"][0]["cluster"]
    entry |= cluster
    config["clusters"][0]["cluster"] = {k: v for k, v in entry.items() if v is not None}
    (admin.home / "config").write_text(json.dumps(config))


def plugin(admin: Admin, version: str, status: dict[str, str], **more: object) -> dict[str, Any]:
    """A program that counts how often it is asked, and writes down what it was told."""
    answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    script = admin.home / "login"
    script.write_text(
        "#!/bin/sh\n"
        f"echo asked >>{admin.home}/asked\n"
        f'printf %s "$KUBERNETES_EXEC_INFO" >{admin.home}/told\n'
        f"echo \"$GREETING $*\" >{admin.home}/words\necho 'please wait' >&2\n"
        f"cat <<'X'\n{answer}\nX\n"
    )
    script.chmod(0o755)
    words: dict[str, Any] = {"command": "./login", "args": ["--for", "me"], "apiVersion": version}
    words |= {"env": [{"name": "GREETING", "value": "hello"}], "interactiveMode": "Never"}
    return {"exec": {**words, **more}}


def test_files_of_a_certificate_and_key(admin: Admin, api: Cluster) -> None:
    configure(admin, api, user={})
    assert "cluster.env is written" in admin.did(*VERB)
    assert "ISTIO_SERVICE_CIDR=10.96.0.0/16" in admin.read("out/cluster.env")


def test_certificate_key_and_authority_as_data(admin: Admin, api: Cluster) -> None:
    certificate, key = api.pair
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    data = {"certificate-authority-data": encoded(api.root), "certificate-authority": None}
    configure(admin, api, user=user, **data)
    admin.did(*VERB)


def test_a_token_and_a_file_with_one(admin: Admin, api: Cluster) -> None:
    configure(admin, api, user={"token": TOKENS[ADMIN]})
    admin.did(*VERB)
    (admin.home / "token").write_text(TOKENS[ADMIN] + "\n")
    # The file counts more.
    configure(admin, api, user={"tokenFile": "token", "token": "stale"})
    admin.did(*VERB)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_plugin_that_tells_a_token(admin: Admin, api: Cluster, version: str) -> None:
    name = f"client.authentication.k8s.io/{version}"
    user = plugin(admin, name, {"token": TOKENS[ADMIN]}, provideClusterInfo=True)
    configure(admin, api, user=user)
    done = admin.mesh(*VERB)
    assert done.returncode == 0, done.stderr
    assert "please wait" in done.stderr
    assert admin.read("asked") == "asked\n"
    assert admin.read("words") == "hello --for me\n"
    told = json.loads(admin.read("told"))
    assert told["apiVersion"] == name
    assert told["spec"]["interactive"] is False
    assert told["spec"]["cluster"]["server"] == api.url
    assert told["spec"]["cluster"]["certificate-authority-data"] == encoded(api.root)


def test_a_plugin_that_tells_a_certificate(admin: Admin, api: Cluster) -> None:
    certificate, key = api.pair
    status = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    configure(admin, api, user=plugin(admin, "client.authentication.k8s.io/v1", status))
    admin.did(*VERB)


def test_a_plugin_whose_token_is_refused_is_asked_once_more(admin: Admin, api: Cluster) -> None:
    user = plugin(admin, "client.authentication.k8s.io/v1", {"token": "no such token"})
    configure(admin, api, user=user)
    done = admin.mesh(*VERB)
    assert done.returncode == 77
    assert "does not know who asks (401)" in done.stderr
    assert "tells a credential that is refused" in done.stderr
    assert admin.read("asked") == "asked\n" * 2


def test_a_token_of_a_plugin_that_is_over_is_renewed(admin: Admin, api: Cluster) -> None:
    status = {"token": TOKENS[ADMIN], "expirationTimestamp": "2001-01-01T00:00:00Z"}
    configure(admin, api, user=plugin(admin, "client.authentication.k8s.io/v1", status))
    admin.did(*VERB)
    assert admin.read("asked").count("asked") > 1


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "ended with status 3"),
        ("kill -9 $$", "ended with signal 9"),
        ("echo hello", "did not print an ExecCredential in JSON"),
        ('echo \'{"kind": "x"}\'', "did not print an ExecCredential"),
        ('echo \'{"kind": "ExecCredential", "apiVersion": "v9"}\'', "answered with apiVersion"),
    ],
)
def test_a_plugin_that_fails_is_named(admin: Admin, api: Cluster, script: str, said: str) -> None:
    configure(admin, api, user=plugin(admin, "client.authentication.k8s.io/v1", {}))
    (admin.home / "login").write_text(f"#!/bin/sh\n{script}\n")
    done = admin.mesh(*VERB)
    assert done.returncode == 77
    assert f"exec plugin {admin.home}/./login {said}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_that_is_not_there_says_how_to_get_it(admin: Admin, api: Cluster) -> None:
    user = plugin(admin, "client.authentication.k8s.io/v1", {}, installHint="apt install login")
    user["exec"]["command"] = "login-of-a-cloud"
    configure(admin, api, user=user)
    done = admin.mesh(*VERB)
    assert "there is no login-of-a-cloud in PATH" in done.stderr
    assert "apt install login" in done.stderr


def test_a_server_of_another_name_is_refused_and_tls_server_name_says_which(
    admin: Admin, api: Cluster
) -> None:
    url = f"https://127.0.0.2:{api.port}"
    # Nothing listens at that address: a proxy leads there.
    with Proxy(api.port) as proxy:
        configure(admin, api, user={}, server=url, **{"proxy-url": proxy.url})
        done = admin.mesh(*VERB)
        assert done.returncode == 75
        assert "a certificate of another" in done.stderr
        assert "tls-server-name" in done.stderr
        words = {"proxy-url": proxy.url, "tls-server-name": "kubernetes.default.svc"}
        configure(admin, api, user={}, server=url, **words)
        admin.did(*VERB)
        assert proxy.asked == [f"127.0.0.2:{api.port}"] * 2


def test_an_administrator_acts_as_somebody_else(admin: Admin, api: Cluster) -> None:
    certificate, key = api.pair
    files = {"client-certificate": str(certificate), "client-key": str(key)}
    configure(admin, api, user={**files, "as": "somebody"})
    done = admin.mesh("certs", "default", "default")
    assert 'User "somebody" cannot get resource' in done.stderr
    configure(admin, api, user={**files, "as": "somebody", "as-groups": ["system:masters"]})
    admin.did(*VERB)


def test_a_proxy_of_the_environment_counts(admin: Admin, api: Cluster) -> None:
    with Proxy(api.port) as proxy:
        configure(admin, api, user={}, **{"tls-server-name": "localhost"}, server="https://k:1")
        admin.did(*VERB, HTTPS_PROXY=proxy.url)
        assert proxy.asked


def test_an_unknown_authority_is_refused_unless_nobody_is_to_look(
    admin: Admin, api: Cluster
) -> None:
    configure(admin, api, user={"token": TOKENS[ADMIN]}, **{"certificate-authority": None})
    done = admin.mesh(*VERB)
    assert done.returncode == 75
    assert "not from an authority we trust" in done.stderr
    words = {"certificate-authority": None, "insecure-skip-tls-verify": True}
    configure(admin, api, user={"token": TOKENS[ADMIN]}, **words)
    done = admin.mesh(*VERB)
    assert (done.returncode, "Warning" in done.stderr) == (0, False)


def test_other_variables_of_the_environment_do_not_count(admin: Admin, api: Cluster) -> None:
    (admin.home / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    (admin.home / ".netrc").chmod(0o600)
    configure(admin, api, user={"token": TOKENS[ADMIN]})
    admin.did(*VERB, REQUESTS_CA_BUNDLE="/dev/null", CURL_CA_BUNDLE="/dev/null")


def test_a_certificate_that_is_over_is_named(admin: Admin, api: Cluster) -> None:
    certificate, key = api.client_pair("late", "system:masters", life_s=-60)
    files = {"client-certificate": str(certificate), "client-key": str(key)}
    configure(admin, api, user=files)
    done = admin.mesh(*VERB)
    assert done.returncode == 77
    assert "the client certificate of " in done.stderr
    assert " ended on 20" in done.stderr


def test_who_may_not_is_told_what(admin: Admin, api: Cluster) -> None:
    configure(admin, api, user={"token": TOKENS[NOBODY]})
    done = admin.mesh("certs", "default", "default")
    assert done.returncode == 77
    assert "Secret istio.default in namespace default" in done.stderr
    assert 'User "nobody" cannot get resource' in done.stderr


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        ({"token": "x"}, {}, "does not know who asks"),
        ({"client-certificate": "none", "client-key": "none"}, {}, "none, which "),
        ({"tokenFile": "none"}, {}, "cannot be read: No such file"),
        ({}, {"certificate-authority": "none"}, "cannot be read: No such file"),
        ({}, {"certificate-authority": "config"}, "is no PEM"),
        ({"client-certificate": "config", "client-key": "config"}, {}, "is no PEM"),
        ({}, {"server": "https://127.0.0.1:1"}, "does not answer: Connection refused"),
        ({}, {"server": "https://name.invalid"}, "does not answer"),
        ({}, {"server": "https://alert-certificate.invalid"}, "does not answer"),
        ({}, {"server": "https://alert.invalid"}, "does not answer"),
        ({}, {"proxy-url": "http://127.0.0.1:1"}, "is not reached through the proxy"),
        ({}, {"proxy-url": "socks5://127.0.0.1:1"}, "SOCKS"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    admin: Admin, api: Cluster, user: dict[str, str], cluster: dict[str, str], said: str
) -> None:
    home = str(admin.home)
    user = {key: f"{home}/{value}" if "-" in key else value for key, value in user.items()}
    for key in ("certificate-authority",):
        if key in cluster:
            cluster = {key: f"{home}/{cluster[key]}"}
    configure(admin, api, user=user, **cluster)
    done = admin.mesh(*VERB)
    assert done.returncode in (75, 77), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("  ")]) == 1
    assert not (admin.home / "out").exists()


def test_a_server_that_speaks_something_else_is_told(admin: Admin, api: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        configure(admin, api, user={}, server=url)

        def answer() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
                    )

        thread = threading.Thread(target=answer)
        thread.start()
        done = admin.mesh(*VERB)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "is no API server: it sent no JSON" in done.stderr


class Proxy:
    """An HTTP proxy that leads every CONNECT to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.asked: list[str] = []
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._serve)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._lead, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _lead(self, client: socket.socket) -> None:
        # Whoever is refused may go without a word.
        with (
            contextlib.suppress(ConnectionResetError),
            client,
            socket.create_connection(("127.0.0.1", self._port)) as server,
        ):
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            self.asked.append(request.split()[1].decode())
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            other = {client: server, server: client}
            while True:
                for ready in select.select([client, server], [], [], 60)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    other[ready].sendall(data)
