"""Benchmarks behind `tandemrec bench`: ratios of times measured side by side, never tests."""
