"""Interactions: readers, filters, splits, the leakage audit and the synthetic source."""
