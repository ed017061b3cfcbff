"""The demo: real services, real producers, and what replay and EWC keep from being forgotten."""
