"""Training of adapters, heads and networks on annotated images."""
