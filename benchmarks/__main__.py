"""`python -m benchmarks [--quick]`: run every page there is, and print where its result lies."""

from __future__ import annotations

import sys

from benchmarks import calls

if __name__ == "__main__":
    sys.exit(calls.main())
