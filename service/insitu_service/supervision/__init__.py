"""Supervision: heartbeats, the watchdog, signals, limits of the machine, and whose fault it was."""
