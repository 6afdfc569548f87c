"""The verbs without a running agent: under the lock of this network namespace, once.

They need no CA, no proxy and no service. Files are read as the agent reads them; the accepted
texts are the agent's and are not used here. One module for each verb, so that none loads what only
another one needs.
"""
