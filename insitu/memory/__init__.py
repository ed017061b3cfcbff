"""Episodic memories: what replay draws from."""
