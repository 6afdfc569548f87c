"""What is promised: one budget for each row, in the order in which they are printed.

A row without a limit is there for comparison. Numbers are those of the design, section 5; MB is
1000 of the kernel's kB, as in the measurements it rests on.
"""

from dataclasses import dataclass

# Debian 13's interpreter and libraries are larger.
MEMORY_MB = {"12": 20.0, "13": 22.0}


@dataclass(frozen=True)
class Budget:
    """One row's promise. `percentile`: which of the samples is held against the limit."""

    what: str
    unit: str
    limit: float | None = None
    percentile: float = 50.0


BUDGETS = {
    "install": Budget("install the standard set, in process", "ms", 1.5),
    "replace": Budget("replace it by a changed one, in process", "ms", 1.5),
    "read": Budget("read it back and compare, in process", "ms"),
    "repair": Budget("read, plan, replace, read back, in process", "ms"),
    "apply": Budget("apply, fresh process, files as packaged: wall", "ms", 80.0),
    "apply-cpu": Budget("  the same: CPU, the file reader included", "ms"),
    "apply-root": Budget("apply, files only root can write: wall", "ms", 80.0),
    "apply-root-cpu": Budget("  the same: CPU", "ms"),
    "cidrs": Budget("10 000 CIDRs: install, in process", "ms", 60.0),
    "cidrs-text": Budget("  from the text of the file to the rule set", "ms"),
    "rss": Budget("resident memory, steady in the mesh: RSS", "MB", MEMORY_MB["12"]),
    "pss": Budget("  the same: PSS", "MB"),
    "uss": Budget("  the same: USS", "MB"),
    "first-cpu": Budget("exec to certificate and rules proven: CPU", "ms", 200.0),
    "first-wall": Budget("  the same: wall", "ms"),
    "joined": Budget("exec to in the mesh, with Envoy", "s", 0.6),
    "joined-cpu": Budget("  the same: CPU, Envoy's check of its bootstrap incl.", "ms"),
    "verify": Budget("verify, fresh process, no agent: wall", "ms", 300.0),
    "verify-asked": Budget("verify, answered by the agent: wall", "ms", 300.0),
    "flush": Budget("foreign flush: repaired and proven again, p99", "ms", 20.0, 99.0),
    "flush-rules": Budget("  the first half: rules back, p99", "ms", None, 99.0),
    "wakeups": Budget("wake-ups of the agent, idle, with Envoy", "/min", 12.0),
}


def find_budget(key: str, release: str) -> Budget:
    """Give the budget of a row on this Debian release ("12"; unknown ones count as 12)."""
    budget = BUDGETS[key]
    if key == "rss" and release in MEMORY_MB:
        return Budget(budget.what, budget.unit, MEMORY_MB[release], budget.percentile)
    return budget
