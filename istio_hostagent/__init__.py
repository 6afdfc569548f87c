"""Keeps one host in an Istio mesh."""

__version__ = "0.1.0"
