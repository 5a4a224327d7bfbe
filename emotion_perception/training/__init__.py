"""Fine-tuning, heads, and the small models of the drawn world."""
