"""Secret discovery (Envoy's SDS, version 3) as values: bytes in, bytes out.

Pure: no socket, no file, no clock.
For the secret server alone (`workers.secrets`), a process of its own.
"""
