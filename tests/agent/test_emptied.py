"""Files that lose their content by accident, by an editor, or because somebody means it."""

import pytest

from istio_hostagent.agent import reload
from istio_hostagent.config import model
from istio_hostagent.host import layers
from tests.agent.host import MemoryHost
from tests.agent.texts import (
    CLUSTER,
    CONFIGS,
    FACTS,
    HOSTAGENT,
    SIDECAR,
    SOURCES,
    TEXTS,
    config_of,
    know,
)

PORTS = b"ISTIO_INBOUND_PORTS=*\n"
A, RULES = (TEXTS[name].replace(b"ISTIO_INBOUND_PORTS=8080\n", b"") for name in ("A", "rules"))
NOTHING = b"# out of use\n"
COMMENTS = (b"#\n", b"# nothing any more\n\n  # really\n")
WITHOUT_OUTBOUND = {
    "an empty variable": b"CIDR=\nISTIO_SERVICE_CIDR=$CIDR\n",
    "a variable without a value": b"ISTIO_SERVICE_CIDR=${CIDR}\n",
    "empty quotes": b'ISTIO_SERVICE_CIDR=""\n',
    "no line for it": b"",
}
EMPTY_PORTS = A + b"P=\nISTIO_INBOUND_PORTS=$P\n"
WITHOUT_CONTENT = {
    "empty": b"",
    "white space": b"\n \t\r\n",
    "NUL bytes": bytes(512),
    "NUL bytes and white space": bytes(100) + b"\n",
    "a byte order mark": b"\xef\xbb\xbf\n",
    "gone": None,
}


def without_outbound(text: bytes) -> bytes:
    return A.replace(b"ISTIO_SERVICE_CIDR=10.96.0.0/12\n", text)


# What cluster.env and sidecar.env may say together, by its name.
SAID: dict[str, tuple[bytes, bytes | None]] = {
    "whole": (A, PORTS),
    "other networks": (RULES, PORTS),
    **{f"cluster.env alone {number}": (A, text) for number, text in enumerate(COMMENTS)},
    "nothing": (NOTHING, b"#\n"),
    "no ports": (EMPTY_PORTS, None),
    **{name: (without_outbound(text), PORTS) for name, text in WITHOUT_OUTBOUND.items()},
}
for _name, (_cluster, _sidecar) in SAID.items():
    CONFIGS[_name] = config_of(_cluster, sidecar=_sidecar)
    know(_name, CONFIGS[_name].redirection)


class TwoFiles(MemoryHost):
    """A host of which both files matter."""

    @property
    def written(self) -> str:
        """What the files say, with the text that stands in for one without content."""
        cluster, sidecar = self.disk.files.get(CLUSTER), self.disk.files.get(SIDECAR)
        is_lost = self.has("accepted.json") and sidecar in WITHOUT_CONTENT.values()
        return self._name(cluster, PORTS if is_lost else sidecar)

    def _text_of(self, name: str) -> str:
        if not self.has(name):
            return ""
        layers = reload.parse_layers(self.disk.files[f"/state/{name}"], SOURCES)
        return self._name(*(layer.data for layer in layers[1:]))

    def _name(self, *data: bytes | None) -> str:
        return next((name for name, said in SAID.items() if said == data), "")

    @property
    def proxies_of(self) -> set[str]:
        return set(SAID) if self.ready else set()


@pytest.fixture
def host() -> MemoryHost:
    made = TwoFiles()
    made.write(CLUSTER, A)
    made.write(SIDECAR, PORTS)
    made.join()
    assert made.accepted == "whole"
    return made


def lose(host: MemoryHost, path: str, content: bytes | None) -> None:
    if content is None:
        host.remove(path)
    else:
        host.write(path, content)


@pytest.mark.parametrize("path", [CLUSTER, SIDECAR, HOSTAGENT])
@pytest.mark.parametrize("content", WITHOUT_CONTENT.values(), ids=WITHOUT_CONTENT)
def test_a_file_without_any_content_counts_as_it_was(
    host: MemoryHost, path: str, content: bytes | None
) -> None:
    transactions = host.space.transactions
    lose(host, path, content)
    host.run(60.0)
    assert host.is_in_mesh
    assert "whole" in host.rules_of
    assert host.space.transactions == transactions
    assert f"{path}: " in host.summary
    status = host.status
    assert status["configuration"]["state"] == "kept"
    (warning,) = [each for each in status["configuration"]["warnings"] if path in each]
    assert f"echo '#' > {path}" in warning
    assert host.answer("reload")["ok"]
    host.kill()
    host.join()
    host.run(10.0)
    assert "whole" in host.rules_of
    assert f"{path}: " in host.summary


@pytest.mark.parametrize("content", WITHOUT_CONTENT.values(), ids=WITHOUT_CONTENT)
def test_the_other_files_still_count_while_one_is_lost(
    host: MemoryHost, content: bytes | None
) -> None:
    lose(host, SIDECAR, content)
    host.run(5.0)
    host.write(CLUSTER, RULES)
    host.until(lambda: host.accepted == "other networks" and host.is_in_mesh, 60.0, "both texts")
    assert "other networks" in host.rules_of
    host.kill()
    host.write(CLUSTER, A)
    host.start()
    host.until(lambda: host.accepted == "whole" and host.is_in_mesh, 60.0, "over a restart")
    host.write(SIDECAR, b"#\n")
    host.until(lambda: "cluster.env alone 0" in host.rules_of, 60.0, "a comment drops it")
    host.run(5.0)
    assert SIDECAR not in host.summary


@pytest.mark.parametrize("mean", COMMENTS)
def test_comments_alone_are_a_word_and_it_is_said(host: MemoryHost, mean: bytes) -> None:
    host.write(SIDECAR, mean)
    host.until(lambda: host.accepted.startswith("cluster.env alone"), 60.0, "what it says alone")
    warnings = host.status["configuration"]["warnings"]
    assert f"{SIDECAR}: sets nothing: every line of it is a comment" in warnings


def test_a_host_that_has_joined_takes_comments_alone_for_nothing_captured(
    host: MemoryHost,
) -> None:
    host.write(SIDECAR, b"#\n")
    host.write(CLUSTER, NOTHING)
    host.until(lambda: host.accepted == "nothing", 60.0, "what comments say")
    warnings = " ".join(host.status["configuration"]["warnings"])
    assert host.is_in_mesh
    assert "nothing outbound is captured any more" in warnings
    assert "nothing inbound is captured any more" in warnings
    host.kill()
    host.join()
    host.run(5.0)
    assert host.is_in_mesh


def test_a_host_that_has_not_joined_waits_where_comments_are_alone() -> None:
    host = MemoryHost()
    host.write(CLUSTER, b"# KEY=value\n")
    host.start()
    host.settle()
    assert f"waiting for {CLUSTER}" in host.summary
    assert any(
        "every line of it is a comment" in w for w in host.status["configuration"]["warnings"]
    )


def test_an_editor_that_truncates_before_it_writes_is_waited_for(host: MemoryHost) -> None:
    before = host.log.lines.copy()
    for half in (b"", RULES[:5], RULES[:-4] + b"'"):
        host.write(CLUSTER, half)
        host.run(0.1)
        assert CLUSTER not in host.summary
    host.write(CLUSTER, RULES)
    host.until(lambda: host.accepted == "other networks", 60.0, "what was written in the end")
    assert not [line for line in host.log.lines[len(before) :] if line.startswith("ERROR")]


def test_a_writer_that_never_comes_to_an_end_is_named(host: MemoryHost) -> None:
    for turn in range(40):
        host.write(CLUSTER, b"nonsense %d\n" % turn)
        host.run(0.2)
        if CLUSTER in host.summary:
            return
    raise AssertionError(f"the mistake is never said: {host.summary}")


@pytest.mark.parametrize("name", WITHOUT_OUTBOUND)
def test_a_key_that_captured_and_is_empty_now_is_a_warning_that_stays(
    host: MemoryHost, name: str
) -> None:
    host.write(CLUSTER, without_outbound(WITHOUT_OUTBOUND[name]))
    host.until(lambda: host.accepted == name, 60.0, "what the file says")
    host.run(120.0)
    warnings = host.status["configuration"]["warnings"]
    (warning,) = [each for each in warnings if "nothing outbound is captured" in each]
    assert warning.startswith(CLUSTER)


def test_words_of_a_value_are_not_taken_for_a_warning() -> None:
    text = without_outbound(b"ISTIO_METAJSON_X='{nothing outbound is captured'\n")
    trust = model.Trust(is_root_only=True)
    files = ((HOSTAGENT, b""), (CLUSTER, text), (SIDECAR, PORTS))
    found = tuple(model.Layer(path, data, trust) for path, data in files)
    before = config_of(A, sidecar=PORTS)
    loaded = reload.load(layers.Found(found, ()), FACTS, (), before)
    said = " ".join(problem.message for problem in loaded.warnings)
    assert "ISTIO_METAJSON_X is no JSON" in said
    assert "nothing outbound is captured any more" in said


def test_what_an_empty_variable_leaves_uncaptured_is_said_from_the_first_start_on() -> None:
    host = TwoFiles()
    host.write(CLUSTER, EMPTY_PORTS)
    host.join()
    warnings = host.status["configuration"]["warnings"]
    (warning,) = [each for each in warnings if "nothing" in each]
    assert warning.startswith(f"{CLUSTER}:4: ISTIO_INBOUND_PORTS is empty because $P is")
    assert warning.endswith("nothing inbound is captured")
