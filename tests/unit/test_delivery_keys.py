"""The keys that say who else gets the certificate, and who is told."""

import pytest

from istio_hostagent.config import build, model

ROOT = model.Trust(is_root_only=True)
FACTS = model.HostFacts(
    998,
    997,
    users=(("root", 0, 0), ("haproxy", 110, 115), ("app", 1000, 1001)),
    groups=(("root", 0), ("haproxy", 115), ("ssl-cert", 120)),
)


def build_config(
    text: str, trust: model.Trust = ROOT, *, is_accepted: bool = False
) -> build.Outcome:
    layers = [model.Layer("/own", text.encode(), trust)]
    layers += [model.Layer(path, None, ROOT) for path in ("/cluster", "/sidecar")]
    return build.build_config(layers, FACTS, is_accepted=is_accepted)


def delivery(text: str) -> model.Delivery:
    outcome = build_config(text)
    assert outcome.config is not None, outcome.problems
    return outcome.config.delivery


def test_several_outputs_with_their_owners_and_modes() -> None:
    text = (
        'ISTIO_HOSTAGENT_OUTPUTS="pem:/etc/haproxy/mesh.pem,owner=haproxy files:/srv/mesh/,'
        "group=ssl-cert pkcs12:/etc/t/m.p12,owner=1000,group=120,mode=440,"
        'password-file=/etc/t/pass"\n'
    )
    kind = model.OutputKind
    assert delivery(text).outputs == (
        model.Output(kind.PEM, "/etc/haproxy/mesh.pem", 110, 115, 0o600),
        model.Output(kind.FILES, "/srv/mesh", 0, 120, 0o640),
        model.Output(kind.PKCS12, "/etc/t/m.p12", 1000, 120, 0o440, "/etc/t/pass"),
    )


@pytest.mark.parametrize(
    ("output", "key", "more"),
    [
        ("files:/srv/svid", "PROV_CERT (/own:1)", "PROV_CERT=/srv/svid"),
        ("files:/srv/svid/", "PROV_CERT (/own:1)", "PROV_CERT=/srv/svid\nFILE_MOUNTED_CERTS=true"),
        ("pem:/srv/svid/key.pem", "PROV_CERT (/own:1)", "PROV_CERT=/srv/svid/"),
        ("files:/etc/certs", "PROV_CERT", "OUTPUT_CERTS=/srv/out"),
        ("files:/srv/out", "OUTPUT_CERTS (/own:1)", "OUTPUT_CERTS=/srv/out"),
        ("files:/srv/out", "CERTS_DIR (/own:1)", "CERTS_DIR=/srv/out"),
        ("pem:/srv/token", "ISTIO_HOSTAGENT_TOKEN_FILE (/own:1)", "ISTIO_HOSTAGENT_TOKEN_FILE=/srv/token"),
        ("pem:/srv/roots.pem", "CA_ROOT_CA (/own:1)", "CA_ROOT_CA=/srv/roots.pem"),
    ],
)  # fmt: skip
def test_an_output_that_would_be_read_again_is_refused_with_its_line(
    output: str, key: str, more: str
) -> None:
    text = f"{more}\nISTIO_HOSTAGENT_OUTPUTS='{output} pem:/srv/mesh.pem'\n"
    [problem] = build_config(text).problems
    assert (problem.file, problem.line) == ("/own", text.count("\n"))
    assert f"what this agent reads there, by {key}: name another place" in problem.message
    accepted = build_config(text, is_accepted=True)
    assert accepted.config is not None
    assert [each.path for each in accepted.config.delivery.outputs] == ["/srv/mesh.pem"]
    assert problem.line in [warning.line for warning in accepted.warnings]


def test_an_output_beside_what_is_read_is_none_of_that() -> None:
    text = (
        "PROV_CERT=/srv/svid\nISTIO_HOSTAGENT_OUTPUTS='pem:/srv/svid/mesh.pem files:/srv/svid2'\n"
    )
    assert len(delivery(text).outputs) == 2


def test_without_the_keys_nobody_else_gets_anything() -> None:
    assert delivery("ISTIO_SERVICE_CIDR=*\n") == model.Delivery()


@pytest.mark.parametrize("what", ["owner=nobody-here", "group=nobody-here"])
def test_a_user_or_group_that_is_not_there_is_named_with_its_line(what: str) -> None:
    [problem] = build_config(f"\nISTIO_HOSTAGENT_OUTPUTS=pem:/x,{what}\n").problems
    assert problem.line == 2
    assert f"there is no {what.partition('=')[0].replace('owner', 'user')} nobody-here" in str(
        problem
    )


@pytest.mark.parametrize(
    "line", ["ISTIO_HOSTAGENT_OUTPUTS=pem:/x", "ISTIO_HOSTAGENT_RENEW_HOOK=/bin/true"]
)
@pytest.mark.parametrize("is_proxys", [False, True])
def test_they_count_only_from_a_file_that_only_root_can_write(line: str, is_proxys: bool) -> None:
    trust = model.Trust(is_root_only=False, is_proxys=is_proxys, detail="/own belongs to app")
    [problem] = build_config(line + "\n", trust).problems
    assert "counts only from a file that only root can write" in str(problem)


def test_a_hook_is_a_command_or_units() -> None:
    command = delivery("ISTIO_HOSTAGENT_RENEW_HOOK=\"/usr/local/bin/tell 'a b' unit\"\n").hook
    assert command == model.RenewHook(command=("/usr/local/bin/tell", "a b", "unit"))
    units = delivery("ISTIO_HOSTAGENT_RENEW_HOOK='unit:a.service unit:b@c.service'\n").hook
    assert units == model.RenewHook(units=("a.service", "b@c.service"))


def test_they_are_not_handed_on_to_the_proxy() -> None:
    outcome = build_config("ISTIO_HOSTAGENT_RENEW_HOOK=/bin/true\n")
    assert outcome.config is not None
    assert "HOOK" not in repr(outcome.config.proxy.environment)
