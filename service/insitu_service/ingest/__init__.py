"""Ingest: producers greet, send and are acknowledged; what they send enters the stream once."""
