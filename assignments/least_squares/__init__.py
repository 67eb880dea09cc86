"""Problem set to the chapter on least squares."""
