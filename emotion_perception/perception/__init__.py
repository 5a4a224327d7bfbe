"""From a frame to estimates: detection, tracking, scheduling and ageing."""
