"""Who takes part in a run of many processes, and who died."""
