"""A model that TorchServe computes, and the same server as always in front of it."""
