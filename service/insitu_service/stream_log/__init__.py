"""The stream log of the service: its parts, its syncing, and its books against a checkpoint."""
