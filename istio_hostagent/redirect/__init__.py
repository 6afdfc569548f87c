"""From `Config` to packet-filter rules, and from two rule sets to a plan.

Pure: nothing here reaches the kernel.
"""
