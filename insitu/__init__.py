"""insitu: streaming in-situ learning with episodic replay.

This package is the learning library; `insitu_producers` is the light client of simulations and
`insitu_service` the daemon. Importing `insitu` imports nothing else, so that the client works
where torch is not installed.
"""

__version__ = "0.1.0"
