"""Job files of Nomad as values, and their templates filled in: as much as our documents use of both.

    job = nomadjob.parse(Path("docs/nomad/shop.nomad.hcl"), {"mesh": "10.78.0.0/24"})
    job.groups["web"].tasks["agent"].command

What the files do not use is an error, so that nothing in them is passed over. Not here: running
them (`nomadstandin`).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hcl2

_OPTIONS = hcl2.SerializationOptions(with_comments=False, preserve_heredocs=False)
_EXPRESSION = re.compile(r"\$\{([^{}]*)\}")
_ESCAPED_OR_NOT = re.compile(r"\$?" + _EXPRESSION.pattern)
_NUMBER_OF = {"s": 1.0, "m": 60.0}
Found = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """A file of a task: `data` is filled in when the task starts. `mode` is that of the file."""

    destination: str
    data: str
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None
    is_environment: bool = False


@dataclass(frozen=True)
class Task:
    """One task. `hook`: prestart or poststop; empty for a main task."""

    name: str
    driver: str
    user: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    templates: tuple[Template, ...]
    hook: str = ""
    is_sidecar: bool = False
    # What Nomad does where a file says nothing.
    kill_signal: str = "SIGINT"
    kill_timeout_s: float = 5.0


@dataclass(frozen=True)
class Service:
    """One service: the label of its port, and of that of its check with the kind and the path."""

    name: str
    port: str
    provider: str
    check: tuple[str, str, str]


@dataclass(frozen=True)
class Group:
    """One group. `ports`: what each label means inside; `static`: outside, where that is fixed."""

    name: str
    network: str
    ports: Mapping[str, int]
    static: Mapping[str, int]
    services: tuple[Service, ...]
    tasks: Mapping[str, Task]
    shutdown_delay_s: float = 0.0


@dataclass(frozen=True)
class Job:
    """One job file."""

    name: str
    groups: Mapping[str, Group]


def load(path: Path) -> Found:
    """Give a file as the parser gives it; raises an error of its own where it is no HCL."""
    with path.open(encoding="utf-8") as lines:
        return dict(hcl2.load(lines, serialization_options=_OPTIONS))


def parse(path: Path, given: Mapping[str, str | int] | None = None) -> Job:
    """Read a job file; `given`: variables, as `nomad job run -var`. Raises ValueError, KeyError."""
    found = _plain(load(path))
    variables = _labelled(_take(found, "variable", []))
    unknown = set(given or {}) - set(variables)
    if unknown:
        raise ValueError(f"{path} has no variables {unknown}")
    values = {name: each["default"] for name, each in variables.items()} | dict(given or {})
    job = _resolve(found.pop("job"), values)
    _used_up(found, str(path))
    ((name, body),) = _labelled(job).items()
    assert _take(body, "datacenters") == ["dc1"]
    groups = {key: _group(key, each) for key, each in _labelled(body.pop("group")).items()}
    _used_up(body, name)
    return Job(name, groups)


def _group(name: str, found: Found) -> Group:
    (network,) = _take(found, "network")
    ports = _labelled(_take(network, "port", []))
    _take(found, "ephemeral_disk", [])
    _take(found, "restart", [])
    made = Group(
        name,
        network=_take(network, "mode"),
        ports={label: _take(each, "to") for label, each in ports.items()},
        static={label: each.pop("static") for label, each in ports.items() if "static" in each},
        services=tuple(_service(each) for each in _take(found, "service", [])),
        tasks={key: _task(key, each) for key, each in _labelled(_take(found, "task")).items()},
        shutdown_delay_s=_seconds(_take(found, "shutdown_delay", "0s")),
    )
    for each in (found, network, *ports.values()):
        _used_up(each, name)
    return made


def _service(found: Found) -> Service:
    (check,) = _take(found, "check")
    port = _take(found, "port")
    where = _take(check, "port", port), _take(check, "type"), _take(check, "path", "")
    for key in ("interval", "timeout"):
        assert _seconds(_take(check, key)) > 0
    made = Service(_take(found, "name"), port, _take(found, "provider"), where)
    for each in (found, check):
        _used_up(each, made.name)
    return made


def _task(name: str, found: Found) -> Task:
    (config,) = _take(found, "config")
    (life,) = _take(found, "lifecycle", [{}])
    (environment,) = _take(found, "env", [{}])
    _take(found, "resources", [])
    made = Task(
        name,
        driver=_take(found, "driver"),
        user=_take(found, "user", ""),
        argv=(_take(config, "command"), *_take(config, "args", [])),
        environment={key: str(value) for key, value in environment.items()},
        templates=tuple(_template(each) for each in _take(found, "template", [])),
        hook=_take(life, "hook", ""),
        is_sidecar=_take(life, "sidecar", False),
        kill_signal=_take(found, "kill_signal", Task.kill_signal),
        kill_timeout_s=_seconds(_take(found, "kill_timeout", f"{Task.kill_timeout_s:g}s")),
    )
    for each in (found, config, life):
        _used_up(each, name)
    return made


def _template(found: Found) -> Template:
    assert _take(found, "change_mode", "noop") == "noop"
    made = Template(
        destination=_take(found, "destination"),
        data=_take(found, "data"),
        mode=int(_take(found, "perms", "644"), 8),
        uid=_take(found, "uid", None),
        gid=_take(found, "gid", None),
        is_environment=_take(found, "env", False),
    )
    _used_up(found, made.destination)
    return made


_NO_DEFAULT = object()


def _take(found: Found, key: str, default: Any = _NO_DEFAULT) -> Any:
    return found.pop(key) if default is _NO_DEFAULT else found.pop(key, default)


def _used_up(found: Found, where: str) -> None:
    if found:
        raise ValueError(f"{where}: nothing here knows {', '.join(found)}")


def _seconds(text: str) -> float:
    return float(text[:-1]) * _NUMBER_OF[text[-1]]


def _labelled(blocks: list[Found]) -> dict[str, Any]:
    """Blocks with one label as one mapping."""
    return {label: body for block in blocks for label, body in block.items()}


def _plain(value: Any) -> Any:
    """Without the parser's marks of blocks; quotes, which tell texts from expressions, stay."""
    if isinstance(value, dict):
        return {
            _unquoted(key) if key.startswith('"') else key: _plain(each)
            for key, each in value.items()
            if key != "__is_block__"
        }
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _unquoted(text: str) -> str:
    # The escapes of HCL that our files use are those of JSON.
    made = json.loads(text)
    assert isinstance(made, str)
    return made


def _resolve(value: Any, variables: Mapping[str, Any]) -> Any:
    """Texts without quotes, with variables put in; what is known only where a task runs stays."""
    if isinstance(value, dict):
        return {key: _resolve(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolve(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    if not value.startswith('"'):
        return _evaluate(value.removeprefix("${").removesuffix("}"), variables)

    def put_in(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        inside = found[1]
        return found[0] if inside.isupper() else str(_evaluate(inside, variables))

    text = _unquoted(value)
    if "%{" in text:
        # Nomad reads the configuration of a driver twice, and takes it for a directive then.
        raise ValueError(f"a percent sign before a brace, in {text!r}")
    return _ESCAPED_OR_NOT.sub(put_in, text)


def _evaluate(expression: str, variables: Mapping[str, Any]) -> Any:
    if expression.startswith("var."):
        value = variables[expression.removeprefix("var.")]
        quoted = isinstance(value, str) and value.startswith('"')
        return _unquoted(value) if quoted else value
    raise ValueError(f"nothing here knows the expression {expression}")


# -- what is known where a task runs ----------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What Nomad knows: addresses and ports of services, and variables by their paths."""

    services: Callable[[str], tuple[tuple[str, int], ...]]
    variables: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Put in what the environment of the task has; raises KeyError."""
    return _EXPRESSION.sub(lambda found: environment[found[1]], text)


_SERVICE = re.compile(
    r'\{\{ range nomadService 1 \(env "NOMAD_ALLOC_ID"\) "([^"]*)" \}\}(.*?)\{\{ end \}\}'
)
_VARIABLE = re.compile(r'\{\{ with nomadVar "([^"]*)" \}\}\{\{ \.(\w+) \}\}\{\{ end \}\}')
_ENVIRONMENT = re.compile(r'\{\{ env "(\w+)" \}\}')


def render(data: str, environment: Mapping[str, str], known: Known) -> str:
    """Fill in a template; raises ValueError for what our documents do not use."""

    def services(found: re.Match[str]) -> str:
        # One of them: Nomad chooses by the allocation.
        return "".join(
            found[2].replace("{{ .Address }}", address).replace("{{ .Port }}", str(port))
            for address, port in known.services(found[1])[:1]
        )

    text = _SERVICE.sub(services, data)
    text = _VARIABLE.sub(lambda found: known.variables.get(found[1], {}).get(found[2], ""), text)
    text = _ENVIRONMENT.sub(lambda found: environment[found[1]], text)
    if "{{" in text:
        raise ValueError(f"nothing here knows all of {text!r}")
    return text
