"""Recording: when a checkpoint is made, what belongs to it, and the thread that writes it."""
