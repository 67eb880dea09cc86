"""Problem set to the chapter on matrix recovery."""
