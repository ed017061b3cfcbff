"""Scenarios: how a set of labelled images becomes a stream of tasks, one scenario a file."""
