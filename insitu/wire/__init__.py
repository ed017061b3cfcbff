"""The protocol between producers and the service: bytes to messages and back, without I/O.

`insitu/docs/wire.md` specifies it byte by byte; `messages` is the same in code.
Needs numpy and msgpack only; xxhash is used where it is installed.
"""
