"""Self-contained HTML pages of spectrograms, levels and players, for `separate` and `evaluate`."""
