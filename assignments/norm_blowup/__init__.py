"""Problem set to the chapter on norm blow-up."""
