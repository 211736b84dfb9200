"""Recordings: what to do for the files named, and doing it block by block."""
