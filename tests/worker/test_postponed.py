"""Modules that are loaded when they are used, and programs that never use them."""

import colorsys
import subprocess
import sys
from pathlib import Path

import pytest

from istio_hostagent.host import postponed

CHECKOUT = Path(__file__).parents[2]


def names_loaded(code: str) -> set[str]:
    """What an interpreter of its own has loaded for real after this code."""
    shown = "print(*(n for n, m in sys.modules.items() if getattr(m, '__spec__', None)))"
    command = ["/usr/bin/python3", "-c", f"import sys\n{code}\n{shown}"]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def test_a_postponed_module_is_there_for_who_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys")
    postponed.postpone("colorsys")
    assert sys.modules["colorsys"] is not colorsys
    import colorsys as found

    assert found.rgb_to_hls(1.0, 0.0, 0.0) == colorsys.rgb_to_hls(1.0, 0.0, 0.0)
    with pytest.raises(AttributeError):
        _ = found.nothing_of_this_name  # type: ignore[attr-defined] # that is the point


def test_names_can_be_taken_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys")
    postponed.postpone("colorsys")
    from colorsys import hls_to_rgb

    assert hls_to_rgb(0.0, 0.5, 1.0) == (1.0, 0.0, 0.0)


def test_a_module_that_is_loaded_stays_as_it_is() -> None:
    postponed.postpone("colorsys")
    assert sys.modules["colorsys"] is colorsys


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="dataclasses always uses inspect there")
def test_a_verb_does_not_load_what_only_dataclasses_asks_for() -> None:
    loaded = names_loaded(
        "from istio_hostagent.cli import main\nassert main.main(['status']) != 70\n"
        "import istio_hostagent.cli.run"
    )
    assert "dataclasses" in loaded
    assert not loaded & {"inspect", "ast", "dis"}


def test_the_watcher_loads_none_of_what_watchdog_does_not_use(tmp_path: Path) -> None:
    loaded = names_loaded(
        "from istio_hostagent.host import watch\n"
        "watcher = watch.FileWatcher(lambda: None)\n"
        f"assert watcher.follow([{str(tmp_path / 'file')!r}]) and not watcher.trouble\n"
        "watcher.stop()"
    )
    assert "watchdog.observers" in loaded
    usual = names_loaded("")
    assert not loaded & {"shutil", "subprocess", "tempfile", "bz2", "lzma", "random"} - usual
