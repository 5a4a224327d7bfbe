"""The page of a replay: timeline, moments, latencies and dropped frames."""
