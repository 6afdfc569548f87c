"""The texts by which a host is put into a cluster's mesh, both generations of Istio. Pure.

Not here: who asks the cluster for what they hold (`cluster`), and who copies them to a host.
"""
