"""Servers that hold the parameters, and workers that come and go (Li et al. 2014, "Scaling distributed machine learning
with the parameter server").

Servers are the first ranks, and one process group: together they resume, make each update and save checkpoints as the
ranks of other strategies do. Workers are in no group. They ask the first server for a lease of a share of a step, pull
the parameters, and push their gradient. When one is lost, another gets its lease.

- `shards.py` says which server has which tensors; `shard.py` is one server's, and its gradients on their way in.
- `leases.py` says who computes what, and how far ahead of the slowest (Ho et al. 2013, stale synchronous parallel).
- `wire.py` makes bytes of tensors, `quantized.py` fewer bytes; `server.py` and `client.py` exchange them by gRPC.
- `server_trainer.py` is the trainer of a server, `worker.py` that of a worker; `run.py` is a rank's life as either.
"""
