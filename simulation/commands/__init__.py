"""The command line: what users type, and what it prints."""
