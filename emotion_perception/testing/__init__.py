"""Stand-ins for slow parts and builders of small checkpoints, for tests."""
