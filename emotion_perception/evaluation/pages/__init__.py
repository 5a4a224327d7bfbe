"""HTML pages that open from disk without a network: Jinja2 templates and SVG charts."""
