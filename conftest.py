"""Settings for every test, notebooks included, before anything numerical is imported."""

import os

# Stored outputs hold text only: figures and explorers leave their pictures out.
os.environ["DMFLIB_TEXT_ONLY"] = "1"
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
