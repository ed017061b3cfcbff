"""`insitu replay`: other configurations on the very stream that a log holds."""
