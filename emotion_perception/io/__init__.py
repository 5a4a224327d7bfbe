"""Read and write images, bags, videos, messages and files."""
