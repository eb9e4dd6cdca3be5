"""The cubic and its samples: drawn, written, read and scaled."""
