"""The manual says what the code has."""

from pathlib import Path

from istio_hostagent import errors

MANUAL = Path(__file__).parents[2] / "debian" / "man" / "istio-hostagent.8.rst"


def test_every_name_of_an_error_is_in_the_manual_and_no_other() -> None:
    _, _, text = MANUAL.read_text().partition("Every error also has a name")
    listed = text.partition("\n\n")[0].split("*")[1::2]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {
        kind.code
        for kind in kinds
        if issubclass(kind, errors.HostAgentError) and kind is not errors.HostAgentError
    }
    assert listed == sorted(codes)
