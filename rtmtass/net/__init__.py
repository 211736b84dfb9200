"""The network in torch: how time works, its layers, and the two-stage separator."""
