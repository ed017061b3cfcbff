"""The client of insitu: push samples from a simulation, a camera or a file to the service.

Needs numpy, pyzmq and msgpack only.
"""

from insitu.schema import Schema
from insitu_producers.line import WaitTimeoutError
from insitu_producers.producer import Producer
from insitu_producers.stats import ProducerStats

__all__ = ["Producer", "ProducerStats", "Schema", "WaitTimeoutError"]
