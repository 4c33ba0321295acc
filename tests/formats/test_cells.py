"""What is exported for spreadsheets and shown in errors: no cell is a formula, and no error repeats a secret."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revector.cli import run
from revector.config import load_project
from revector.errors import ConfigError
from revector.formats.cells import guarded, unguarded
from revector.history.audit import EventFilter, csv_lines, stream
from revector.registry.control import add_event
from worlds import World

FORMULAS = ("=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "''+1")


@given(st.text() | st.sampled_from(FORMULAS))
def test_what_is_guarded_reads_back_as_it_was_and_never_begins_a_formula(text: str) -> None:
    found = guarded(text)
    assert unguarded(found) == text
    assert not found.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


def test_numbers_stay_numbers() -> None:
    assert [guarded(one) for one in (-1, -0.5, None)] == [-1, -0.5, None]


def test_no_cell_of_the_history_is_a_formula(served: World) -> None:
    with served.engine.begin() as connection:
        cid = served.collection.cid
        add_event(connection, cid, "=HYPERLINK(1)", "-rollback", None, {"reason": "@SUM(1+1)"})
    with served.engine.connect() as connection:
        text = "".join(csv_lines(stream(connection, "docs", EventFilter())))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert (rows[0]["actor"], rows[0]["kind"], rows[0]["reason"]) == ("'=HYPERLINK(1)", "'-rollback", "'@SUM(1+1)")
    assert not [cell for row in rows for cell in row.values() if cell[:1] in "=+-@\t\r" and cell]


def test_no_cell_of_the_chain_of_revisions_is_a_formula(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(served.root)
    path = served.root / "migrations" / "docs" / "b200.py"
    path.write_text(path.read_text().replace('"""b200"""', '"""=1+1"""'))
    assert run(["history", "--format", "csv"]) == 0
    assert "'=1+1" in capsys.readouterr().out


SECRET = "hunter2-T0KEN"
WRONG = [
    f'alerts = "https://hooks.example/{SECRET}"',
    f'[alerts]\nwebhook = ["https://hooks.example/{SECRET}"]',
    f'[alerts]\nwebhok = "https://hooks.example/{SECRET}"',
    f'[alerts.webhook]\nurl = "{SECRET}"',
    f'database_url = ["postgresql://me:{SECRET}@db/x"]',
    f'database_ulr = "postgresql://me:{SECRET}@db/x"',
    f'[serve]\ntoken = "{SECRET}"',
    f'[providers.openai]\nbase_url = "https://x"\napi_key = "{SECRET}"',
    f'providers = "{SECRET}"',
    f'[hybrid]\nm = ["{SECRET}"]',
    f'[collections.docs]\nsource = ["sql://me:{SECRET}@db"]',
    f'[collections.docs]\npassword = "{SECRET}"',
    f'collections = ["{SECRET}"]',
]


@pytest.mark.parametrize("text", WRONG)
def test_an_error_in_the_settings_names_the_place_and_repeats_no_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "revector.toml").write_text(text)
    with pytest.raises(ConfigError, match="correct the file") as caught:
        load_project(tmp_path)
    assert SECRET not in str(caught.value)


def test_an_error_in_the_environment_repeats_no_secret_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "revector.toml").write_text("")
    for name, value in (("ALERTS", f'{{"webhook": ["{SECRET}"]}}'), ("ALERTS", SECRET), ("SERVE__TOKEN", SECRET)):
        with monkeypatch.context() as patch:
            patch.setenv(f"REVECTOR_{name}", value)
            with pytest.raises(ConfigError) as caught:
                load_project(tmp_path)
        assert SECRET not in str(caught.value)


def test_a_number_that_is_none_is_shown(tmp_path: Path) -> None:
    (tmp_path / "revector.toml").write_text('[collections.docs]\nwindow_hours = "two days"')
    with pytest.raises(ConfigError, match=r"window_hours: .* found 'two days'"):
        load_project(tmp_path)
