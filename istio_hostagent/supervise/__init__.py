"""Processes as values: what to start, with which bootstrap, and when to start it again.

Pure: nothing is spawned here.
"""
