"""The commands: one module each, a function whose signature is its command line. Heavy imports stand inside."""
