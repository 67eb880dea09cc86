"""Problem set to the chapter on the perturbed start."""
