"""The insitu service: a daemon that takes samples from producers and trains one model on them."""
