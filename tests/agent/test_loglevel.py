"""How much the agent logs is said by a file, and counts at once."""

import logging

from tests.agent.host import MemoryHost
from tests.agent.texts import CLUSTER, HOSTAGENT, OWN, TEXTS


def test_the_key_counts_at_once_and_changes_nothing_else() -> None:
    host = MemoryHost()
    host.write(HOSTAGENT, OWN)
    host.write(CLUSTER, TEXTS["A"])
    host.join()
    starts, shown = host.status["proxy"]["starts"], host.status["redirection"]["proven_at"]
    seen = []
    for level in ("warning", "debug", "error", "info"):
        host.write(HOSTAGENT, OWN + f"ISTIO_HOSTAGENT_AGENT_LOG_LEVEL={level}\n".encode())
        assert host.answer("reload")["ok"]
        seen.append(host.log_level)
    assert seen == [logging.WARNING, logging.DEBUG, logging.ERROR, logging.INFO]
    assert host.status["proxy"]["starts"] == starts
    assert host.status["redirection"]["proven_at"] == shown
    host.write(HOSTAGENT, OWN + b"ISTIO_HOSTAGENT_AGENT_LOG_LEVEL=loud\n")
    host.until(lambda: "'loud' is not one of error, warning, info, debug" in host.summary, 5.0, "")
