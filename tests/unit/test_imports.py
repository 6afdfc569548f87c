"""The import rules of the tree, held by reading the code: review will not."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "istio_hostagent"
PURE = ("config", "redirect", "identity", "supervise", "lifecycle", "sds", "names", "expansion")
# Who may import which package of ours; errors may be imported by everybody.
ALLOWED = {
    "config": set(),
    "redirect": {"config"},
    "identity": {"config"},
    "supervise": {"config", "names"},
    "lifecycle": {"identity", "supervise"},
    "sds": set(),
    "names": set(),
    "host": {"config", "redirect", "identity", "supervise", "sds", "names"},
    "workers": {"config", "redirect", "identity", "host", "names", "sds"},
    "agent": {"config", "redirect", "identity", "supervise", "lifecycle", "host"},
    "expansion": set(),
    "cluster": {"expansion", "config", "identity"},
    "cli": {"agent", "config", "host", "cluster", "expansion"},
}
# The modules that load a big library belong to workers, and to programs of administrators.
HEAVY = {
    "host": {"ca", "keys", "certificatestore", "generations", "secondread", "xtlibrary"},
    "identity": {"csr", "trust", "certificates", "protocols"},
}
EFFECTS = {"os", "subprocess", "socket", "threading", "time", "random", "select", "signal"}
LIBRARIES = {"pyroute2", "iptc", "watchdog", "grpc", "pycurl", "requests", "sdnotify"}
# Of the agent's modules these make the real things; the others take them as arguments.
COMPOSING = {"app.py", "here.py", "oneshot"}
# What agent/ may call of `os`: it looks at no file, and asks only who we are.
OF_OS = {
    *("os.path.join", "os.path.dirname", "os.path.basename", "os.path.abspath"),
    *("os.getpid", "os.geteuid", "os.strerror"),
}
# What it may use of modules of host/ that reach the machine: values, and functions of values.
OF_HOST = {
    "files": {"MAX_BYTES"},
    "layers": {"Begun", "Found"},
    "processes": {"STUCK_S", "User", "ended_badly"},
    "changes": {"Change", "LOST"},
    "rtmonitor": {"Change"},
    "procstate": {"Hold"},
    "clock": {"utc_text"},
    "garbage": {"collect", "give_back"},
    "published": {"REFRESH_S"},
    "survey": {"Feature", "Holder", "HostsLine", "Process", "Unit"},
    "probepool": {"Kind", "count", "first_round"},
}
VALUES_OF_HOST = {"ports", "answers"}
FORBIDDEN_IN_RESIDENT = (
    *("cryptography", "grpc", "requests", "pyroute2", "iptc", "pycurl", "ssl"),
    *("asyncio", "h2", "urllib3"),
    "hashlib",  # it brings libcrypto
)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[tuple[int, str, str]]:
    """(relative level, module, name) of every import statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, node.module or "", alias.name


def own_targets(path: Path) -> Iterator[tuple[str, str]]:
    """(package, module) of every import of ours."""
    here = path.relative_to(PACKAGE).parts[:-1]
    for level, module, name in imports(path):
        if level:
            base = list(here[: len(here) - (level - 1)])
            parts = [*base, *(module.split(".") if module else []), name]
            yield parts[0], parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    here = room(path)
    for target, module in own_targets(path):
        if here and target in ALLOWED and target != here:
            assert target in ALLOWED[here], f"{here} may not import {target}"
        if target in HEAVY and module in HEAVY[target]:
            assert here in ("workers", "cluster", target), f"{target}.{module} is for workers"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_effects_stay_in_host(path: Path) -> None:
    here = room(path)
    roots = {module.split(".")[0] for level, module, _ in imports(path) if not level}
    if here in PURE:
        assert not roots & (EFFECTS | LIBRARIES | {"logging"})
    elif here in ("agent", "cli"):
        assert not roots & (EFFECTS | LIBRARIES) - {"os", "signal"}


def dotted(node: ast.expr) -> str:
    """The text of a name with attributes; "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def used(path: Path) -> set[str]:
    """Every name with its attributes, as far as they are written: `os.path.join`, `open`."""
    tree = ast.parse(path.read_text())
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute))
    return {dotted(node) for node in names if id(node) not in inner} - {""}


def host_modules(path: Path) -> Iterator[tuple[str, str]]:
    """(name here, module of host/) of everything imported from there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "host":
            within = (node.module or "").partition(".")[2]
            yield from ((each.asname or each.name, within or each.name) for each in node.names)


AGENT = [path for path in modules() if room(path) == "agent"]


@pytest.mark.parametrize("path", AGENT, ids=lambda path: path.name)
def test_the_agent_opens_no_file_and_no_socket(path: Path) -> None:
    found = used(path)
    assert "open" not in found
    assert {name for name in found if name.split(".")[0] == "os"} <= OF_OS


@pytest.mark.parametrize(
    "path", [path for path in AGENT if not COMPOSING & set(path.parts)], ids=lambda path: path.name
)
def test_the_parts_reach_the_machine_through_ports_alone(path: Path) -> None:
    found = used(path)
    for name, module in host_modules(path):
        if module not in VALUES_OF_HOST:
            reached = {each.split(".")[1] for each in found if each.startswith(f"{name}.")}
            assert reached <= OF_HOST.get(module, set())


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_stand_at_the_top(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"import inside {node.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_broad_handlers_stand_in_three_places_only(path: Path) -> None:
    broad = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (isinstance(node.type, ast.Name) and node.type.id.endswith("eException"))
            or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
        )
    ]
    allowed = {"agent/loop.py": 1, "cli/main.py": 1}
    assert len(broad) <= allowed.get(str(path.relative_to(PACKAGE)), 0)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_module_decides_when_garbage_is_collected(path: Path) -> None:
    found = {module for level, module, _ in imports(path) if not level}
    assert "gc" not in found or path.relative_to(PACKAGE) == Path("host/garbage.py")


def loaded_by(*names: str) -> set[str]:
    """What an interpreter of its own has loaded, without any library, once it has these."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    command = ["/usr/bin/python3", "-S", "-c", code]
    done = subprocess.run(
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def install(directory: Path) -> Path:
    """The program as the package installs it, on the modules of this checkout."""
    installed = (PACKAGE.parent / "systemd" / "istio-hostagent").read_text()
    assert installed.startswith("#!/usr/bin/python3 -IS\n")
    program = directory / "istio-hostagent"
    program.write_text(installed.replace("/usr/share/istio-hostagent", str(PACKAGE.parent)))
    program.chmod(0o755)
    return program


def test_verbs_of_administrators_find_their_libraries(tmp_path: Path) -> None:
    command = [str(install(tmp_path)), "mesh", "generateClusterEnv", "--cidr", "10.96.0.0/12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cluster.env").read_text().startswith("ISTIO_SERVICE_CIDR=10.96.0.0/12\n")


def test_the_installed_program_starts_without_libraries_and_finds_them(tmp_path: Path) -> None:
    program = install(tmp_path)
    # Help comes once everything is loaded that the resident needs to begin.
    done = subprocess.run([program, "run", "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_resident_finds_libraries_without_running_what_lies_beside_them() -> None:
    """What .pth files and sitecustomize.py name would run as root and stay in memory."""
    code = """if True:
        import os, sys
        sys.argv[1:] = ["run", "--help"]
        os._exit = lambda status: print(*sys.modules)
        from istio_hostagent.cli import program
        program.execute()
        import watchdog
    """
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(done.stdout.split())
    assert "istio_hostagent.cli.main" in loaded
    assert not {"site", "sitecustomize"} & loaded


def test_the_resident_process_loads_no_big_library() -> None:
    code = "import sys, istio_hostagent.cli.run; print(*sys.modules)"
    command = ["/usr/bin/python3", "-c", code]
    done = subprocess.run(
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    found = {name.split(".")[0] for name in done.stdout.split()}
    assert not found & {*FORBIDDEN_IN_RESIDENT, "dataclasses", "inspect", "argparse", "datetime"}


# What performs each verb: with an agent, and without one where that is possible.
ASKING = ("apply", "plan", "verify", "status", "wait", "reload", "renew")
ALONE = {
    "apply": ("agent.oneshot.start", "agent.oneshot.apply"),
    "plan": ("agent.oneshot.start", "agent.oneshot.plan"),
    "clean": ("cli.clean",),
    "config": ("cli.config",),
    "verify": ("agent.oneshot.start", "agent.oneshot.verify"),
    "explain": ("agent.oneshot.start", "agent.oneshot.explain"),
    "cert": ("agent.oneshot.start", "agent.oneshot.cert", "host.certificatelook"),
}
# Of Python's own library, what costs a millisecond or more and no verb uses.
HEAVY_STANDARD = {
    "dataclasses",
    "inspect",
    "logging",
    "argparse",
    "pathlib",
    "subprocess",
    "datetime",
}


def rooms_of(loaded: set[str]) -> set[str]:
    """The packages of ours that have anything in them loaded."""
    prefix = f"{PACKAGE.name}."
    own = [name.removeprefix(prefix) for name in loaded if name.startswith(prefix)]
    return {name.split(".")[0] for name in own if "." in name}


@pytest.mark.parametrize("verb", ASKING)
def test_a_verb_that_asks_the_agent_loads_what_asking_takes(verb: str) -> None:
    loaded = loaded_by(f"istio_hostagent.cli.main, istio_hostagent.cli.{verb}")
    assert rooms_of(loaded) == {"cli", "host"}
    of_host = {name for name in loaded if name.startswith("istio_hostagent.host.")}
    few = ("clock", "control", "instances", "mailbox")
    assert of_host <= {f"istio_hostagent.host.{name}" for name in few}
    assert not loaded & HEAVY_STANDARD


@pytest.mark.parametrize("verb", ALONE)
def test_a_verb_without_an_agent_loads_what_it_uses(verb: str) -> None:
    modules = (f"istio_hostagent.{name}" for name in ("cli.main", f"cli.{verb}", *ALONE[verb]))
    loaded = loaded_by(*modules)
    assert not loaded & HEAVY_STANDARD
    rooms = rooms_of(loaded)
    assert not rooms & {"lifecycle", "identity"}
    if verb == "clean":
        # Whatever the files say: no parser, no process of another user.
        assert not any("config.build" in name or "host.processes" in name for name in loaded)
    if verb == "config":
        assert "redirect" not in rooms
    if verb != "verify":
        assert not any(name.startswith("istio_hostagent.agent.tasks") for name in loaded)


def test_to_begin_reading_the_files_takes_no_rules_and_no_parser() -> None:
    """The reader runs beside what is loaded after this."""
    loaded = loaded_by("istio_hostagent.agent.oneshot.start")
    assert "redirect" not in rooms_of(loaded)
    assert "istio_hostagent.config.build" not in loaded


def test_the_secret_server_stays_small() -> None:
    """It lives as long as a proxy is there; typing alone is 1 MB of its 9."""
    loaded = loaded_by("istio_hostagent.workers.launch, istio_hostagent.workers.secrets")
    assert not loaded & (HEAVY_STANDARD | {"typing", "json", "re", "hashlib", "ssl", "h2"})
    assert rooms_of(loaded) == {"workers", "host", "sds"}


def test_the_reader_of_files_loads_next_to_nothing() -> None:
    loaded = loaded_by("istio_hostagent.workers.reader")
    assert not loaded & {"json", "re", "enum", "typing", "collections"}


def test_the_resolver_of_names_loads_neither_tls_nor_what_it_does_not_use() -> None:
    """It lives as long as a proxy is there, and Envoy speaks TLS for it."""
    loaded = loaded_by("istio_hostagent.workers.launch, istio_hostagent.workers.resolver")
    assert not loaded & (HEAVY_STANDARD | {"typing", "random", "hashlib", "ssl", "h2"})
    assert rooms_of(loaded) == {"workers", "host", "names"}
