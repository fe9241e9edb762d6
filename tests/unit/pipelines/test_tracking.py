from __future__ import annotations

from lakemill.pipelines.flow import Counts
from lakemill.pipelines.record import Outcome
from lakemill.pipelines.tracking import numbers, plot


def test_every_number_of_a_run_is_a_metric() -> None:
    counts = Counts(rows=3, asked=2, failed=1, failed_by_code={"TIMEOUT": 1}, prompt_tokens=7)
    told = numbers(Outcome(counts, 9.0, {"plan": 1.5}, 0.5))
    assert (told["rows"], told["asked"], told["failed.TIMEOUT"], told["prompt_tokens"]) == (3, 2, 1, 7)
    assert (told["seconds"], told["seconds.plan"], told["rows_per_second"]) == (9.0, 1.5, 0.5)


def test_the_plot_has_a_line_a_step() -> None:
    (axes,) = plot({"brief": [3.0, 1.0, 2.0], "topic": [4.0]}).axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    assert lines == {"brief": [1.0, 2.0, 3.0], "topic": [4.0]}
