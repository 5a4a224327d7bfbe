"""Replay recorded bags: what the node would publish and when, with figures and a report."""
