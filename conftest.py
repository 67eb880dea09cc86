"""Settings for every test, notebooks included, before anything numerical is imported."""

import os

from hypothesis import settings

# Stored outputs hold text only: figures and explorers leave their pictures out.
os.environ["DMFLIB_TEXT_ONLY"] = "1"
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# The same examples on every run, so that a failure is a failure of the change at hand. To look for
# new ones: HYPOTHESIS_PROFILE=search pytest tests/test_matrices.py
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
