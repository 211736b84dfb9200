"""Training tools: data, mixing and training. Need the extra `train`."""
