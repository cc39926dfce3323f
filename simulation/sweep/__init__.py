"""Every policy at every budget for every seed, and the exact bounds."""
