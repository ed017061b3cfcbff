"""Monitoring: the live state as metrics, as plain data, as lines for a person who waits."""
