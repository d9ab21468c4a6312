"""How fast one core answers requests: Muster's runtime beside raw torch, TorchServe and kserve's ModelServer."""
