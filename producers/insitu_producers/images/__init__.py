"""Sets of labelled images, read from the files that they are published in."""
