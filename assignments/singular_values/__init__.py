"""Problem set to the chapter on singular values."""
