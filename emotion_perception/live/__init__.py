"""A page that shows what a camera, a video or a running node sees, while it happens."""
