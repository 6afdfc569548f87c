"""Write the certificate for other programs; runs as root, which opens nothing of istio-proxy's.

In:  {"output_dir", "store_dir", "identity", "user": [uid, gid] of istio-proxy, "record": a
     directory of root's, "outputs": [{"kind", "path", "owner", "group", "mode", "password_file"}]}
Out: {"outputs": [{"is_changed", "error"}]} in the same order, "error": empty where it is as it is
     to be, and "error": {"code", "message", "hint"} where there is nothing to write
In:  {"record", "kept": [paths that are still wanted]}
Out: {"removed": [paths], "left": [sentences about those that are somebody's by now], "failed":
     [sentences about those that could not be removed]}

A child that has become istio-proxy for good reads what is held and renders it; root writes the
bytes. What stands there already stays (`record`: a digest of the certificates, and how the files
looked after they were written). Nothing printed holds a key or a password.
"""

import binascii
import contextlib
import hashlib
import importlib
import json
import os
import stat
import sys
from typing import Any

from ..errors import ChildFailed, HostAgentError, NotPermitted, describe
from ..host import cores, files, generations, outputfiles
from . import apart

MAX_RENDERED = 32 << 20
MAX_RECORD = 1 << 18
_RECORD = "record.json"
_NOTE, _WRITTEN = ".output", ".written"
_MAX_PASSWORD = 1024
_STRANGE = "the process that renders the certificate made other files than it was asked for"
_CHILD = "the process that renders the certificate"


def main() -> None:
    """Read one request, write one answer."""
    cores.forbid()  # one would hold the key
    request = json.load(sys.stdin)
    json.dump(release(request) if "kept" in request else perform(request), sys.stdout)


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Bring every output to what is held."""
    outputs = request["outputs"]
    passwords: list[bytes] = []
    faults = []
    for output in outputs:
        try:
            passwords.append(_read_password(output["password_file"]))
            faults.append("")
        except (HostAgentError, OSError) as error:
            passwords.append(b"")
            faults.append(_explain(output["password_file"], error))
    rendered = _render_apart(request, passwords)
    if "error" in rendered:
        return {"outputs": [], "error": rendered["error"]}
    recorded = os.path.join(request["record"], _RECORD)
    before = _read_record(recorded)
    # What is not wanted any more stays there, to be told when it is removed; so does what cannot
    # be written now, and was before.
    record = dict(before)
    answers = []
    for output, made, fault in zip(outputs, rendered["outputs"], faults, strict=True):
        path = output["path"]
        sign = _sign(output, rendered["digest"])
        is_changed = False
        fault = fault or made.get("error", "")
        is_there = before.get(path) == [sign, outputfiles.fingerprint(path)]
        if not fault and not is_there:
            try:
                _note(request["record"], path)
                write(output, made)
                _note_written(request["record"], path)
                is_changed = True
            except (HostAgentError, OSError) as error:
                fault = _explain(path, error)
        if not fault:
            record[path] = [sign, outputfiles.fingerprint(path)]
        answers.append({"is_changed": is_changed, "error": fault})
    if record != before:
        _write_record(request["record"], record)
    return {"outputs": answers}


def release(request: dict[str, Any]) -> dict[str, Any]:
    """Remove what was written for outputs that no key names any more.

    Only what still is as it was written; the rest has become somebody's, and is not ours at purge
    either.
    """
    directory = request["record"]
    record = _read_record(os.path.join(directory, _RECORD))
    removed: list[str] = []
    left: list[str] = []
    failed: list[str] = []
    for path in sorted(record.keys() - set(request["kept"])):
        try:
            is_removed = outputfiles.remove(path, record[path][1])
        except (HostAgentError, OSError) as error:
            failed.append(_explain(path, error, "removed"))
            continue
        if is_removed:
            removed.append(path)
        else:
            left.append(f"{path} stays: it was changed since this agent wrote it")
        del record[path]
        for suffix in (_NOTE, _WRITTEN):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_name_note(directory, path, suffix))
    if removed or left:
        _write_record(directory, record)
    return {"removed": removed, "left": left, "failed": failed}


def write(output: dict[str, Any], made: dict[str, Any]) -> None:
    """Write what istio-proxy's process made of an output; raises NotPermitted, OSError.

    What it says is not believed: names of its choice would be paths for root.
    """
    expected = generations.NAMES if output["kind"] == "files" else (outputfiles.CONTENT,)
    made_of = made.get("files")
    if not isinstance(made_of, dict) or made_of.keys() != set(expected):
        raise NotPermitted(_STRANGE)
    try:
        content = {name: binascii.a2b_base64(made_of[name]) for name in expected}
    except (TypeError, ValueError) as error:
        raise NotPermitted(_STRANGE) from error
    owner, mode = (output["owner"], output["group"]), output["mode"]
    if output["kind"] == "files":
        outputfiles.write_set(output["path"], content, mode=mode, owner=owner)
    else:
        (data,) = content.values()
        outputfiles.write_file(output["path"], data, mode=mode, owner=owner)


def _note(directory: str, path: str) -> None:
    """Leave a link to what is about to be written, for the script that removes it at purge."""
    files.make_directory(directory, mode=0o700)
    link = _name_note(directory, path, _NOTE)
    if not os.path.islink(link):
        os.symlink(path, link)


def _note_written(directory: str, path: str) -> None:
    """Leave for that script how a file looks, in the words of `stat -c '%i %s %Y'`.

    A set is known by its links.
    """
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode):
        text = f"{status.st_ino} {status.st_size} {status.st_mtime_ns // 10**9}\n"
        files.write_atomically(_name_note(directory, path, _WRITTEN), text.encode())


def _name_note(directory: str, path: str, suffix: str) -> str:
    return os.path.join(directory, f"{binascii.crc32(path.encode()):08x}{suffix}")


def _sign(output: dict[str, Any], digest: str) -> list[Any]:
    """What an output is made of, beside its own file; a password by when its file changed."""
    password = files.fingerprint(output["password_file"]) if output["password_file"] else None
    settings = [output[name] for name in ("kind", "owner", "group", "mode", "password_file")]
    return [digest, *settings, list(password) if password else None]


def _read_password(path: str) -> bytes:
    if not path:
        return b""
    outputfiles.require_roots(os.path.dirname(path))
    password = files.read_bounded(path, _MAX_PASSWORD + 1).rstrip(b"\r\n")
    if not password or len(password) > _MAX_PASSWORD or b"\n" in password:
        raise NotPermitted(f"{path} holds no password: one line of at most {_MAX_PASSWORD} bytes")
    return password


def _write_record(directory: str, record: dict[str, Any]) -> None:
    files.make_directory(directory, mode=0o700)
    files.write_atomically(os.path.join(directory, _RECORD), json.dumps(record).encode())


def _read_record(path: str) -> dict[str, Any]:
    try:
        found = json.loads(files.read_bounded(path, MAX_RECORD))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _explain(path: str, error: HostAgentError | OSError, done: str = "written") -> str:
    if isinstance(error, OSError):
        return outputfiles.describe(path, error, done)
    return error.text


# -- as istio-proxy -----------------------------------------------------------------------------


def _render_apart(request: dict[str, Any], passwords: list[bytes]) -> dict[str, Any]:
    """What a child renders that is istio-proxy; an "error" where it does not."""
    uid, gid = request["user"]
    try:
        value: dict[str, Any] = apart.run(
            uid, gid, lambda: _render(request, passwords), name=_CHILD, max_bytes=MAX_RENDERED
        )
    except ChildFailed as error:
        return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    return value


def _render(request: dict[str, Any], passwords: list[bytes]) -> dict[str, Any]:
    # What it loads parses what istio-proxy has written: never in root's process.
    rendering: Any = importlib.import_module(".rendering", __package__)
    kinds: Any = importlib.import_module("..config.model", __package__)
    made: list[dict[str, Any]] = []
    try:
        held = rendering.read(request["output_dir"], request["store_dir"], request["identity"])
        for output, password in zip(request["outputs"], passwords, strict=True):
            kind = kinds.OutputKind(output["kind"])
            try:
                content = rendering.render(held, kind, password)
            except (HostAgentError, ValueError) as error:
                reason = error.text if isinstance(error, HostAgentError) else "it has no such form"
                made.append({"error": f"{output['path']}: {reason}"})
                continue
            encoded = {name: binascii.b2a_base64(data).decode() for name, data in content.items()}
            made.append({"files": encoded})
    except HostAgentError as error:
        failure = {"code": error.code, "message": error.message, "hint": error.hint}
        return {"error": failure}
    except OSError as error:
        return {"error": {"code": "child-failed", "message": describe(error), "hint": ""}}
    # Of the certificates, which name the key's other half; nothing is derived from the key itself.
    digest = hashlib.sha256(b"\0".join((held.chain or b"", held.root or b""))).hexdigest()
    return {"digest": digest, "outputs": made}


if __name__ == "__main__":
    main()
