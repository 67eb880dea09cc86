"""Problem set to the chapter on effective rank."""
