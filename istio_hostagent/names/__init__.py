"""Pure: names of the mesh as istiod tells them, and queries for names (RFC 1035), as values.

Nothing here opens a socket or reads a clock. It loads neither typing, dataclasses nor anything
else that costs memory, since the resolver that uses it stays as long as the proxy.
"""
