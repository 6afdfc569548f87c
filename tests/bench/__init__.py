"""`make bench`: the budgets of the design, measured beside the peers in the same run.

    python -m tests.bench --envoy PATH [--long]

The parts: budgets (the table of what is promised), rows (judging samples), table (printing),
cost (processes and what they used), installs, verbs, joining and steady (what is measured), site
(namespaces, authority and agents for it), libnftables (a peer), machine (where it ran).
"""
