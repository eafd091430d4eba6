"""The ledger: what headers promise is read, what was measured is kept and shown."""

from pathlib import Path

import pytest

from nn_lib.checks import UserError
from nn_lib.search import ledger
from tests.processes import ROOT


def source(tmp_path, *rows):
    file = tmp_path / "some.py"
    lines = [f"Ledger   {rows[0]}", *(f"         {row}" for row in rows[1:])]
    file.write_text('"""A system.\n\nPaper    X\n' + "\n".join(lines) + '\nMore     y\n"""\n')
    return file


def test_rows_are_read_with_their_flags(tmp_path):
    file = source(
        tmp_path,
        ":cnn  test accuracy 94 %  3 seeds",
        ":lstm  validation bits_per_character 2.2  1 seed  --a=$X/b --c=2",
    )
    first, second = ledger.promises([file])
    assert (first.name, first.split, first.metric) == ("some:cnn", "test", "accuracy")
    assert (first.expected, first.seeds, first.flags) == (pytest.approx(0.94), 3, ())
    assert first.written(0.9362) == "93.6 %" and second.written(2.2) == "2.200"
    assert second.name == "some:lstm --a=$X/b --c=2" and second.flags == ("--a=$X/b", "--c=2")


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="the ledger row ':cnn about 94 %' is not"):
        ledger.promises([source(tmp_path, ":cnn about 94 %")])


PUBLISHED = (
    ":a  test accuracy 90 %  3 seeds  published 93 %, A 2014",
    ":a  test loss 0.5  3 seeds",
)


def test_measurements_are_kept_and_shown_with_their_spread(tmp_path):
    file = source(tmp_path, *PUBLISHED, ":b  test loss 0.5  1 seed")
    rows = ledger.promises([file])
    assert [row.key for row in rows] == ["some:a", "some:a (test loss)", "some:b"]
    found = ledger.Measurement((0.9, 0.92, 0.94), 130.0, 5210, "python -m x", "abc123", "2 cores")
    (tmp_path / "results.json").write_text(ledger.as_json({"some:a": found}))
    measured = ledger.read(tmp_path / "results.json")
    assert measured == {"some:a": found}
    lines = ledger.as_table(rows, measured).splitlines()
    assert lines[2] == (
        "| `some:a` | 5,210 | test accuracy | 93 %, A 2014 | 90.0 % | 92.0 % ± 2.0 % | 3 | "
        "2.2 min | abc123 | 2 cores |"
    )
    assert all("not measured yet" in line for line in lines[3:])


def test_every_header_of_the_project_can_be_read_and_its_variants_exist():
    import runpy

    sources = [*(ROOT / "configs").glob("[!_]*.py"), ROOT / "experiments" / "shallow.py"]
    rows = ledger.promises(sources)
    assert len({row.key for row in rows}) == len(rows) > 10
    for row in rows:
        if row.source.parent.name == "configs":
            runpy.run_path(str(row.source))["get_config"](row.variant)


def test_the_page_is_the_records_rendered():
    """docs/results.md is made from docs/results.json, never by hand."""
    page = (ROOT / "docs" / "results.md").read_text()
    sources = [
        *sorted(Path(ROOT, "configs").glob("[!_]*.py")),
        ROOT / "experiments" / "shallow.py",
    ]
    table = ledger.as_table(ledger.promises(sources), ledger.read(ROOT / "docs" / "results.json"))
    assert page.endswith(table)
