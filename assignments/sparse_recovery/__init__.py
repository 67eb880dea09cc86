"""Problem set to the chapter on sparse recovery."""
