"""How a trained network is run one frame at a time: a plan of packed weights and a machine."""
