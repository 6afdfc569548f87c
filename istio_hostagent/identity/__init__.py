"""Certificates as values: what to ask for, what to believe, when to renew.

Pure: no key is made or stored here.
"""
