"""Versions that were tested are the ones that are installed: bounds on both sides, and a lock with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = sorted(
    {
        text
        for texts in (PROJECT["dependencies"], *EXTRAS.values())
        for text in texts
        if not text.startswith("revector[")
    }
)


def blocks() -> dict[str, str]:
    """Each requirement of the lock with the lines that belong to it."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements.lock").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line.split(" ")[0]: line for line in lines}


APART = [
    pin
    for folder in ("adapters", "contract")
    for pin in re.findall(r"^\S+==\S+$", (ROOT / "tests" / folder / "requirements.txt").read_text(), re.MULTILINE)
]
"""Pins of `make test-adapters` and `make test-stores`, which test frameworks and clients apart from the lock."""

LOCKED = {canonicalize_name(pin.split("==")[0]): Version(pin.split("==")[1]) for pin in blocks()}
PINNED = {canonicalize_name(pin.split("==")[0]): Version(pin.split("==")[1]) for pin in APART}
TESTED = PINNED | LOCKED


CONSTRAINTS = {
    Version(path.stem.removeprefix("airflow-")): path for path in (ROOT / "docs" / "constraints").glob("airflow-*.txt")
}
"""What `make test-airflows` installs with each Airflow that it tests."""

OLDEST = {"apache-airflow": min(CONSTRAINTS), **{name: PINNED[name] for name in ("pgvector", "sqlalchemy")}}


@pytest.mark.parametrize("text", DIRECT)
def test_a_direct_dependency_is_bounded_by_what_was_tested(text: str) -> None:
    wanted = Requirement(text)
    locked = TESTED[canonicalize_name(wanted.name)]
    oldest = OLDEST.get(wanted.name, locked)
    bounds = {one.operator: Version(one.version) for one in wanted.specifier}
    assert wanted.specifier.contains(locked)
    if "==" in bounds:
        return
    assert set(bounds) == {">=", "<"}
    assert bounds[">="].release[:2] == oldest.release[:2] or bounds[">="] == oldest, "an older one was not tested"
    assert bounds["<"] <= Version(f"{locked.major + 1}"), "a newer major version was not tested"


def test_everything_in_the_lock_but_torch_has_hashes() -> None:
    without = [pin for pin, line in blocks().items() if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", line)]
    assert [pin.split("==")[0] for pin in without] == ["torch"]
    assert "+cpu" not in "".join(blocks())


def test_the_lock_names_no_libraries_of_one_kind_of_machine() -> None:
    assert not [name for name in LOCKED if name.startswith(("nvidia", "cuda", "triton"))]


@pytest.mark.parametrize("version", CONSTRAINTS, ids=str)
def test_the_constraints_of_an_airflow_fit_our_bounds_and_name_no_machine(version: Version) -> None:
    text = CONSTRAINTS[version].read_text()
    assert not re.search(r"//|[@+\\]|^-", text, re.MULTILINE), "no address, path, local build or option"
    pins = [pin for line in text.splitlines() if not (pin := Requirement(line)).marker or pin.marker.evaluate()]
    held = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    assert held["apache-airflow"] == version
    for wanted in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["airflow"], *EXTRAS["embed"]]):
        assert wanted.specifier.contains(held[canonicalize_name(wanted.name)]), wanted


def test_the_newest_airflow_is_the_one_of_the_lock_which_ci_tests() -> None:
    assert max(CONSTRAINTS) == LOCKED["apache-airflow"]
