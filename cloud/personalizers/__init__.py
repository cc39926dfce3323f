"""What generates personal parameters, one file per method."""
