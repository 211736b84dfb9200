"""How good a separator is: metrics, leakage, perceptual measures and the HTML report."""
