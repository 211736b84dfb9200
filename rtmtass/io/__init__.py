"""Every way in and out of a file or a pipe: protocols, containers, encodings, part files."""
