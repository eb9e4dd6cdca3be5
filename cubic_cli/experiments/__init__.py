"""What is done with passes: a run, a sweep, a check."""
