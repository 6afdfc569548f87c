"""Which cluster is meant and as whom; and what is wrong in a kubeconfig, by file and line."""

from pathlib import Path

import pytest

from istio_hostagent.cluster import access, networks, remote
from istio_hostagent.errors import ConfigInvalid, WrongUsage

GOOD = """\
apiVersion: v1
kind: Config
current-context: one
contexts:
- name: one
  context: {cluster: c1, user: u1, namespace: vm}
- name: two
  context: {cluster: c1, user: u2}
clusters:
- name: c1
  cluster:
    server: https://192.0.2.1:6443
    certificate-authority: pki/ca.crt
users:
- name: u1
  user: {client-certificate: me.crt, client-key: me.key}
- name: u2
  user: {token: t}
"""


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_paths_are_relative_to_the_file_they_stand_in(tmp_path: Path) -> None:
    file = write(tmp_path / "sub/config", GOOD)
    found = access.choose({}, path=file)
    assert found.context == "one"
    assert found.namespace == "vm"
    assert found.cluster.authority_file == str(tmp_path / "sub/pki/ca.crt")
    assert found.user.certificate_file == str(tmp_path / "sub/me.crt")


def test_a_context_that_is_named_counts(tmp_path: Path) -> None:
    found = access.choose({}, path=write(tmp_path / "config", GOOD), context="two")
    assert (found.user.token, found.namespace) == ("t", "default")


def test_the_file_of_the_home_directory_counts_where_nothing_is_named(tmp_path: Path) -> None:
    write(tmp_path / ".kube/config", GOOD)
    assert access.choose({"HOME": str(tmp_path)}).context == "one"
    # An empty variable is none.
    assert access.choose({"HOME": str(tmp_path), "KUBECONFIG": ""}).context == "one"


def test_of_several_files_the_first_that_names_something_counts(tmp_path: Path) -> None:
    first = write(
        tmp_path / "first",
        "contexts: [{name: one, context: {cluster: c1, user: u2, namespace: first}}]\n",
    )
    second = write(tmp_path / "second", GOOD)
    other = GOOD.replace("https://192.0.2.1:6443", "https://192.0.2.2").replace(
        "current-context: one", "current-context: two"
    )
    third = write(tmp_path / "third", other)
    listed = f"{first}:{tmp_path / 'missing'}:{second}:{third}"
    found = access.choose({"KUBECONFIG": listed})
    assert found.context == "one"
    assert found.namespace == "first"
    assert found.user.token == "t"
    assert found.cluster.server == "https://192.0.2.1:6443"


def test_long_data_may_be_folded(tmp_path: Path) -> None:
    text = GOOD.replace(
        "certificate-authority: pki/ca.crt",
        "certificate-authority-data: |\n      aGVs\n      bG8=\n",
    )
    assert access.choose({}, path=write(tmp_path / "c", text)).cluster.authority_data == b"hello"


PLUGIN = """\
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: ./bin/login
      interactiveMode: Never
      args: [a, b]
      env: [{name: K, value: V}]
"""


def test_a_plugin_is_found_beside_its_file(tmp_path: Path) -> None:
    text = GOOD.replace("  user: {token: t}\n", f"  user:\n{PLUGIN}")
    found = access.choose({}, path=write(tmp_path / "c", text), context="two").user.plugin
    assert found is not None
    assert found.command == f"{tmp_path}/./bin/login"
    assert (found.arguments, found.environment) == (("a", "b"), (("K", "V"),))


# What is changed in the good file, and line and words of what is said of it.
BAD = [
    ("server: https://192.0.2.1:6443", "server: 192.0.2.1:6443", 12, "is no URL"),
    ("server: https://192.0.2.1:6443", "server: ftp://192.0.2.1", 12, "is no URL"),
    ("server: https://192.0.2.1:6443", "server: https://192.0.2.1:99999", 12, "is no URL"),
    ("server: https://192.0.2.1:6443", "server: [x]", 12, "must be a text"),
    ("    server: https://192.0.2.1:6443\n", "", 12, "server: is missing"),
    ("certificate-authority: pki", "certificate-authority-data: '*' #", 13, "is not base64"),
    ("server:", "insecure-skip-tls-verify: true\n    server:", 12, "excludes"),
    ("server:", "insecure-skip-tls-verify: perhaps\n    server:", 12, "must be true or false"),
    ("server:", "proxy-url: gopher://x\n    server:", 12, "begins with none of"),
    ("cluster: c1, user: u1", "cluster: c9, user: u1", 6, "no cluster is called 'c9'"),
    ("cluster: c1, user: u1", "cluster: c1, user: u9", 6, "no user is called 'u9'"),
    ("current-context: one", "current-context: nine", 3, "no context is called 'nine'"),
    ("current-context: one\n", "", 0, "there is no current-context"),
    ("client-key: me.key", "x: y", 16, "there is no client-key beside it"),
    ("client-certificate: me.crt, ", "", 16, "there is no client-certificate beside it"),
    ("client-key: me.key", "client-key: me.key, as-groups: [a]", 16, "needs `as`"),
    ("client-key: me.key", "client-key: me.key, as: x, as-groups: [a, b]", 16, "one group"),
    ("client-key: me.key", "client-key: me.key, auth-provider: {name: gcp}", 16, "took it out"),
    ("client-key: me.key", "client-key: me.key, username: x, token: y", 16, "take one out"),
    ("- name: two", "- name: one", 7, "a second context is called 'one'"),
    ("kind: Config", "kind: Pod", 2, "this is no kubeconfig"),
    ("clusters:\n", "clusters: {a: b}\nothers:\n", 9, "must be a list"),
    ("kind: Config", "kind: 'Config", 2, "is no YAML"),
    ("kind: Config", "kind: Config\n\tx: y", 3, "is no YAML"),
]


@pytest.mark.parametrize(("old", "new", "line", "words"), BAD)
def test_what_is_wrong_is_said_with_file_and_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in GOOD
    file = write(tmp_path / "config", GOOD.replace(old, new, 1))
    with pytest.raises(ConfigInvalid) as caught:
        access.choose({}, path=file)
    said = [str(problem) for problem in caught.value.problems]
    assert any(words in each for each in said), said
    # The end of a text that is not closed is all that a parser knows of it.
    if "YAML" not in words:
        place = f"{file}:{line}: " if line else f"{file}: "
        assert any(each.startswith(place) for each in said), said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("apiVersion: client.authentication.k8s.io/v1", "apiVersion: v7"), "is none of"),
        (("command: ./bin/login", "x: y"), "names the program"),
        (("interactiveMode: Never", "x: y"), "interactiveMode: is missing"),
        (("interactiveMode: Never", "interactiveMode: Maybe"), "is none of Never"),
    ],
)
def test_what_is_wrong_of_a_plugin_is_said(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    text = GOOD.replace("  user: {token: t}\n", f"  user:\n{PLUGIN.replace(*change)}")
    with pytest.raises(ConfigInvalid, match=words):
        access.choose({}, path=write(tmp_path / "c", text))


def test_without_any_file_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="no cluster is known"):
        access.choose({"HOME": str(tmp_path)})
    with pytest.raises(WrongUsage, match="no context is called 'x'"):
        access.choose({}, path=write(tmp_path / "config", GOOD), context="x")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigInvalid, match=words):
            access.choose({}, path=str(path))
    (tmp_path / "latin").write_bytes(b"a: b\nc: \xe4\n")
    with pytest.raises(ConfigInvalid, match="latin:2: is no UTF-8"):
        access.choose({}, path=str(tmp_path / "latin"))


@pytest.mark.parametrize(
    ("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_in_a_pod_its_service_account_counts_where_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setattr(access, "IN_CLUSTER_FILES", str(tmp_path))
    pod = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(WrongUsage, match="no cluster is known"):
        access.choose(pod)
    for name, text in (("token", "t"), ("namespace", "tools\n"), ("ca.crt", "c")):
        write(tmp_path / name, text)
    found = access.choose(pod)
    assert found.cluster.server == url
    assert found.cluster.authority_file == str(tmp_path / "ca.crt")
    assert (found.user.token_file, found.namespace) == (str(tmp_path / "token"), "tools")
    # A kubeconfig counts more.
    assert access.choose(pod, path=write(tmp_path / "config", GOOD)).context == "one"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'Service "x" is invalid: spec.clusterIPs: Invalid value: []string{"192.0.2.1"}: failed to'
            " allocate IP 192.0.2.1: provided IP is not in the valid range. The range of valid IPs"
            " is 10.96.0.0/12",
            ["10.96.0.0/12"],
        ),
        ("The range of valid IPs is fd00:10::/108.", ["fd00:10::/108"]),
        ("no such words", []),
    ],
)
def test_an_objection_to_an_address_names_the_network(text: str, found: list[str]) -> None:
    assert networks.read_objection(text) == found


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=x", "a b", "a;b", "u@-x", "$(id)", "a\nb", "@x"]
)
def test_what_ssh_could_take_for_something_else_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        remote.check_host(text)


@pytest.mark.parametrize("text", ["vm1", "vm1.example.org", "me@vm1", "192.0.2.1", "2001:db8::1"])
def test_names_and_addresses_are_hosts(text: str) -> None:
    assert remote.check_host(text) == text
