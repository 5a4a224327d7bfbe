"""What a behaviour planner imports to read the node's messages."""
