"""`make bench`: the budgets of the design, measured beside the peers in the same run.

    python -m tests.bench --envoy PATH [--peers DIRECTORY] [--only GROUP] [--long]

The parts: budgets (the table of what is promised), rows (judging samples), table (printing); cost
(processes and what they used), files, place, host, site, agentlog, readiness (hosts of ours, and
whom they ask); libnftables, istio, restore, peerhost (the peers); installs, networks, connections, escapes, verbs,
joining, together, steady, storm, hang (what is measured); machine (where it ran).
"""
