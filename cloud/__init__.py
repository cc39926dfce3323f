"""What runs in the data centre: candidate generators, training and the gateway."""
