"""Documentation: the tables and pages that are made from the code which they describe."""
