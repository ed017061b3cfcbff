"""Security: who may connect, as whom, how often, and what of it is told to nobody."""
