"""What validation steps decide before the test: what policies learn, prices, fusions."""
