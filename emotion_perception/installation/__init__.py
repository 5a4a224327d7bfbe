"""Try and check an installation: the demo, the checks of `doctor`, and the download of models."""
