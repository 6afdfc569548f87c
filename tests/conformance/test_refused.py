"""What is not taken: apply says where and why, with its exit status, and no packet is captured.

Each mistake is the last line of one of the files; the lines before it are right.
"""

from collections.abc import Iterator

import pytest

from tests.conformance import model, world

# EX_CONFIG of sysexits.h: what the manual says of a configuration that cannot be.
STATUS = 78
GROUPS_65 = ",".join(str(number) for number in range(61600, 61665))
TPROXY = "ISTIO_INBOUND_INTERCEPTION_MODE", "ISTIO_META_INTERCEPTION_MODE"

# The line, and words that the message has beside the key.
MISTAKES = (
    ("ISTIO_OUTBOUND_OWNER_GROUPS", GROUPS_65, "64"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "alpha,no-such-group", "no-such-group"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "no-such-group", "no-such-group"),
    ("ISTIO_OUTBOUND_OWNER_GROUPS", "4294967296", "4294967296"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/33", "127.0.0.1/33"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/7", "127.0.0.1/7"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "10.0.0.0/8", "10.0.0.0/8"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "::1/128", "::1/128"),
    ("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "loopback", "loopback"),
    ("ISTIO_OUTBOUND_PORTS", "3310:3300", "3310:3300"),
    ("ISTIO_INBOUND_PORTS", "8089:8080", "8089:8080"),
    ("ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE", "65536", "65536"),
    ("ISTIO_LOCAL_EXCLUDE_PORTS", "0", "0"),
    ("ISTIO_SERVICE_CIDR", "10.96.0.0/33", "10.96.0.0/33"),
    ("ISTIO_SERVICE_CIDR", "10.96.0.0/12,mesh", "mesh"),
    ("ISTIO_SERVICE_EXCLUDE_CIDR", "*", "*"),
    ("ISTIO_INBOUND_INTERCEPTION_MODE", "NONE", "NONE"),
    ("ENVOY_USER", "no-such-user", "no-such-user"),
    ("EXEC_USER", "no-such-user", "no-such-user"),
    ("PROXY_UID", "61337,no-such-user", "no-such-user"),
    ("PROXY_GID", "no-such-group", "no-such-group"),
    ("ISTIO_HOSTAGENT_RULES", "0.9", "0.9"),
    ("ISTIO_HOSTAGENT_EXCLUDE_USERS", "root,no-such-user", "no-such-user"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "app.service,backup.timer", "no processes"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "app@.service", "template"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "-.slice", "every process"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "/", "every process"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "/sys/fs/cgroup/app.service", "below /sys/fs/cgroup"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "/system.slice/../app.service", "not the path"),
    ("ISTIO_HOSTAGENT_EXCLUDE_UNITS", "an app", "neither the name"),
    ("ISTIO_HOSTAGENT_INCLUDE_UNITS", "backup.timer", "no processes"),
    ("ISTIO_EXCLUDE_INTERFACES", "an-interface-name-that-is-too-long", "too-long"),
)

# The files are right so far.
RIGHT = {"ISTIO_SERVICE_CIDR": "*", "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE": "8443"}


@pytest.fixture(scope="module")
def host() -> Iterator[world.World]:
    """One host for all mistakes: none of them leaves anything there."""
    with world.make(model.Configuration("refused", "plain", RIGHT, ())) as made:
        yield made


@pytest.fixture
def made(host: world.World) -> world.World:
    """The host with files that are right so far."""
    host.write(RIGHT)
    return host


def apply_with(made: world.World, lines: dict[str, str]) -> str:
    """Add lines to sidecar.env; what apply says when it refuses them. No rules were made."""
    with made.sidecar_env.open("a") as file:
        file.writelines(f"{key}='{value}'\n" for key, value in lines.items())
    done = made.apply()
    assert done.returncode == STATUS, done.stderr
    assert made.host.run(["nft", "list", "ruleset"], check=True).stdout == ""
    return done.stderr


def refusal(made: world.World, lines: dict[str, str], key: str) -> str:
    """Add lines to sidecar.env; the one message about a key of them, which names its line."""
    before = len(made.sidecar_env.read_text().splitlines())
    said = apply_with(made, lines)
    where = f"{made.sidecar_env}:{before + list(lines).index(key) + 1}: "
    (message,) = (line for line in said.splitlines() if where in line)
    assert key in message
    return message


@pytest.mark.parametrize(("key", "value", "words"), MISTAKES)
def test_mistake_is_named_with_its_line(
    made: world.World, key: str, value: str, words: str
) -> None:
    assert words in refusal(made, {key: value}, key)


@pytest.mark.parametrize("key", TPROXY)
def test_modes_have_to_agree(made: world.World, key: str) -> None:
    lines = {each: "TPROXY" if each == key else "REDIRECT" for each in TPROXY}
    done = apply_with(made, lines)
    assert all(each in done for each in TPROXY)
    assert f"{made.sidecar_env}:" in done


@pytest.mark.parametrize("key", ["ISTIO_INBOUND_TPROXY_MARK", "ISTIO_INBOUND_TPROXY_ROUTE_TABLE"])
@pytest.mark.parametrize("value", ["many", "-1", "4294967296"])
def test_number_is_named_with_its_line(made: world.World, key: str, value: str) -> None:
    lines = {each: "TPROXY" for each in TPROXY} | {key: value}
    assert value in refusal(made, lines, key)
