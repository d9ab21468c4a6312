"""The provider that needs no container engine: every component is a process of this machine.

Each node has a network namespace, a mount namespace and a subtree of the cgroups of its own. Everything
made on the machine carries the name of the cluster's slot (`muster0`), so that a later command finds and
removes it without any memory of the one that made it.
"""
