"""Tests that run programs in the sandbox need a kernel that can confine them."""

import pytest

from difflm_core.sandbox.confinement import missing_features

MISSING = ", ".join(missing_features())
# Elsewhere the software refuses to run programs at all, which other tests show.
needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")
