"""Learning: the one thread that owns model, optimizer and memory, and what it is made of."""
