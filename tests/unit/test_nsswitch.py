"""Which nsswitch.conf has programs ask systemd-resolved past every rule for packets."""

import pytest

from istio_hostagent.host import nsswitch


@pytest.mark.parametrize(
    ("hosts", "is_final"),
    [
        pytest.param("files dns", False, id="as in Debian's base"),
        pytest.param(
            "files resolve [!UNAVAIL=return] dns", True, id="as libnss-resolve leaves it"
        ),
        pytest.param("files mymachines resolve [!UNAVAIL=return] myhostname dns", True, id="more"),
        pytest.param("files dns resolve [!UNAVAIL=return]", False, id="queries come first"),
        pytest.param("files resolve dns", False, id="what is not found is asked by a query"),
        pytest.param("resolve [NOTFOUND=return] dns", True, id="not found is final"),
        pytest.param("resolve [notfound=RETURN] dns", True, id="in any case"),
        pytest.param("resolve [SUCCESS=return] dns", False, id="says nothing of not found"),
        pytest.param("resolve [!NOTFOUND=return] dns", False, id="all but not found is final"),
        pytest.param(
            "resolve [!UNAVAIL=return NOTFOUND=continue] dns", False, id="the last counts"
        ),
        pytest.param("files resolve", True, id="no query at all"),
        pytest.param("files resolve[!UNAVAIL=return]dns", True, id="without blanks"),
        pytest.param("files # resolve [!UNAVAIL=return] dns", False, id="a comment"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_only_what_is_final_keeps_queries_from_being_sent(hosts: str, is_final: bool) -> None:
    text = f"passwd: files systemd\nhosts:          {hosts}\nnetworks: files\n"
    assert nsswitch.is_final(text) is is_final


def test_a_file_without_hosts_is_not_about_them() -> None:
    assert not nsswitch.is_final("passwd: files\n# hosts: resolve\n")


def test_the_last_line_counts() -> None:
    assert nsswitch.is_final("hosts: dns\nhosts: resolve\n")
    assert not nsswitch.is_final("hosts: resolve\nhosts: dns\n")
