"""The settings of a mutation test: which files are changed, one mistake at a time, and which tests must notice.

    python -m evaluation.mutants FILE… --tests "tests/a.py tests/b.py"        (`make mutate` does it all)

The tests run on the Python that runs this, with the copy's sources first; a PostgreSQL that
`$REVECTOR_TEST_DATABASE_URL` names saves each of them the start of one. What only types say (``int | None``) is left
alone: nothing evaluates it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys

TIMEOUT_S = 600.0
"""A mutant that takes longer hangs: it counts as killed."""

UNEVALUATED = ["core/ReplaceBinaryOperator_BitOr_.*", "core/ReplaceBinaryOperator_Pow_.*"]


def main() -> int:
    """Print the settings for cosmic-ray."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tests", required=True, help="what pytest is given")
    given = parser.parse_args()
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *given.tests.split()]
    command = f"env PYTHONPATH=src:. HF_HUB_OFFLINE=1 {shlex.join(pytest)}"
    print(
        f"[cosmic-ray]\nmodule-path = {json.dumps(given.files)}\ntimeout = {TIMEOUT_S}\nexcluded-modules = []\n"
        f'test-command = {json.dumps(command)}\n\n[cosmic-ray.distributor]\nname = "local"\n\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {json.dumps(UNEVALUATED)}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
