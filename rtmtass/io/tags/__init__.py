"""Metadata of sound files: read in any format, written in another.

soundfile carries nine text fields, in Latin-1 or UTF-8 as it happens; what else a file
holds (covers, broadcast chunks, speaker positions, other fields) is read and written here.
"""
