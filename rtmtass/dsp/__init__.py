"""Signals: the transform, rings and resampling."""
