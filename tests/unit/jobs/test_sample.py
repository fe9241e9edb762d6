from __future__ import annotations

from importlib import metadata

from lakemill.jobs import sample


def test_packages_are_real_and_in_order() -> None:
    rows = sample.installed()
    names = [row[0] for row in rows]
    assert names == sorted(set(names))
    version, licence, summary, description = next(row[1:] for row in rows if row[0] == "click")
    assert version == metadata.version("click")
    assert licence
    assert summary
    assert len(description) > 100


def test_a_whole_licence_text_is_no_licence_name() -> None:
    assert max(len(row[2]) for row in sample.installed()) <= 200


def test_what_was_done_is_told_in_one_line() -> None:
    assert sample.told(sample.Sampled("packages", 3, 0, True)) == "table packages: 3 rows at version 0 (written)"
    assert "unchanged" in sample.told(sample.Sampled("packages", 3, 0, False))
