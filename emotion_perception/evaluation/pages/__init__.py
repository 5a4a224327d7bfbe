"""Pages with tables and charts that open from disk."""
