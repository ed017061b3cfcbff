"""The stream buffer: arrivals in, training batches out, at the pace that was asked for."""
