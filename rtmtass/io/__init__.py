"""Audio input and output: files, pipes, UDP and arrays, their formats and protocols."""
