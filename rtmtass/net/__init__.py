"""The network in torch: streaming modules, layers and the two-stage separator."""
