"""The agent: one process in each worker pod that starts the ranks, watches them and keeps the group together.

It is built on `torch.distributed.elastic`: `elastic.py` is a `SimpleElasticAgent`, `rendezvous.py` a
`RendezvousHandler`. What torch leaves to them is done by the modules beside them, each with one task:

- `coordinator.py` decides who is in the group; pure; it lives in the agent of the pod with rank 0.
- `workers.py` has those who come and go beside the group, where it is one of parameter servers.
- `rounds.py` has what it remembers and the times by which it judges.
- `server.py` puts it on the network, beside `/state`, `/metrics` and `/healthz`.
- `membership.py` is the other end: one pod's place in the group.
- `zygote.py` and `ranks.py` start the ranks; `output.py` prints what they say; `failures.py` says why they died.
- `report.py` reads the progress that the ranks write, `state.py` makes the document that the operator reads.
"""
