"""The command line: settings, commands, screens and pages."""
