"""The stream log: everything that reaches the stream buffer, on disk, in order, to be read again.

`insitu/docs/log.md` has the format byte by byte and what is promised.
"""
