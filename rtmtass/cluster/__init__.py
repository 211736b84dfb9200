"""`rtmtass separate --ray`: an archive separated by all machines of a Ray cluster; see README.md.

Only `pool` imports Ray, only `results` pyarrow and only `urls` fsspec: the extra `ray`.
"""
