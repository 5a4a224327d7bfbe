"""The systems that assess people: one table, one settings class per system."""
