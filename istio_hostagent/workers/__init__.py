"""Processes of their own, one module each: one JSON value on stdin, one on stdout.

All are short-lived but `fallback`, which answers nobody, and `secrets`, which serves the proxy.
"""
