"""How many examples Hypothesis tries where a test does not say: some in `make test`, many in `make torture`."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("torture", max_examples=1_000, deadline=None)
settings.load_profile("torture" if os.environ.get("TORTURE") else "quick")
