"""Offline separation of recordings: planning the outputs, then separating block by block."""
