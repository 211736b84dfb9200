"""The local server of the page: the live engine's controls, and recordings."""
