"""What runs on a phone: models, request policies, the fleet runtime and the wire contract."""
