"""The configuration file: its tables, how they are read and checked, and its written reference."""
