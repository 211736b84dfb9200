"""The workshop: data, mixing, training and evaluation. Needs the extra `train`."""
