"""The compiled runtime: a program of instructions over packed weights, run by one loop."""
