"""What all tests share. Tests write nowhere but under `tmp_path`."""

import os

import hypothesis

# Read when JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "Agg"

# No deadline: the first example compiles. No complaint of slowness: the machine may be shared.
_common = hypothesis.settings(
    deadline=None, max_examples=50, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("dev", _common)
hypothesis.settings.register_profile("ci", _common, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "dev")
