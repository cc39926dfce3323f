"""Request policies of the literature and our own; each file is one policy or one family."""
