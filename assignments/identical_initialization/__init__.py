"""Problem set to the chapter on the identical start."""
