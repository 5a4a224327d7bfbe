"""Images, bags, videos, messages and files in and out of the package."""
