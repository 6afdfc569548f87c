"""A Kubernetes cluster as an administrator's machine reaches it: kubeconfig, and objects by name.

No part of the agent: only one-shot verbs load it, and with it requests and yaml.
"""
