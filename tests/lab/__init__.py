"""A laboratory of network namespaces for tests and the demo: hosts, links, servers, captures."""
