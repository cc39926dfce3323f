"""Candidate generators, one file per family."""
