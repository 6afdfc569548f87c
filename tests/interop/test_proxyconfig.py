"""What the real pilot-agent makes of the PROXY_CONFIG that we hand to it.

conftest.py says how it is named; without it these tests skip.
"""

from typing import Any

import pytest
import yaml

from istio_hostagent.supervise import proxyconfig
from tests.lab import netns

from .conftest import Programs

ADDED = {"discoveryAddress": "cp.example:15012", "binaryPath": "/opt/envoy"}
TEXTS = {
    "nothing": "",
    "indented": "\n    concurrency: 2\n    proxyMetadata:\n      A: |\n        one\n          two\n",
    "a-word-in-a-comment": "# discoveryAddress: elsewhere\nconcurrency: 2\n",
    "a-word-in-a-value": "concurrency: 2\nproxyMetadata: {A: 'discoveryAddress: elsewhere'}\n",
    "json-with-tabs": '{\n\t"concurrency": 2,\n\t"proxyMetadata": {"A": "b"}\n}\n',
    "several-documents": "--- # first\nconcurrency: 2\n---\ndiscoveryAddress: elsewhere\n",
    "his-own-key": "concurrency: 2\n'discoveryAddress': mine.example:15012\n",
}


def effective(programs: Programs, text: str) -> dict[str, Any]:
    """Return what pilot-agent says that its configuration is; it ends for want of a CA's root."""
    environment = {
        "PROXY_CONFIG": text,
        "OUTPUT_CERTS": "",
        "CLOUD_PLATFORM": "none",
        "INSTANCE_IP": "10.0.0.1",
    }
    with netns.Namespace("vm") as space:
        command = [str(programs.directory / "pilot-agent"), "proxy"]
        done = space.run(command, env=environment, cwd=programs.directory)
    _, _, said = (done.stdout + done.stderr).partition("Effective config: ")
    found = yaml.safe_load(said.partition("\n\n")[0])
    assert isinstance(found, dict), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ours_is_added_and_his_stays(programs: Programs, text: str) -> None:
    theirs = effective(programs, text)
    found = effective(programs, proxyconfig.add(text, ADDED))
    assert found["binaryPath"] == "/opt/envoy"
    address = found["discoveryAddress"]
    assert address == ("mine.example:15012" if "mine" in text else "cp.example:15012")
    assert found == theirs | {"binaryPath": "/opt/envoy", "discoveryAddress": address}
