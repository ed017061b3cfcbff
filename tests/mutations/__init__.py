"""What is removed from the code one piece at a time, to show that the tests miss it."""
