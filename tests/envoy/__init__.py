"""The generated bootstrap, carried out by a real Envoy on two hosts made of network namespaces."""
