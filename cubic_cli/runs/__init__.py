"""A run on disk: its record, its history, its parameters, and what may be damaged in them."""
