from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench, cases, measure, table, verdict
from benchmarks.measure import LIMIT, PLAIN, Measured, Sample
from benchmarks.verdict import Started

GOOD = Started(0.5, 100_000_000)


def found(case: cases.Case, foreign: float = 0.0, p99: float = 3.0, **servers: tuple[float, float]) -> Measured:
    """A case with three rounds: the plain server 100 requests/s at 10 ms; others as multiples of it."""
    samples = {LIMIT: [Sample(1000, 0.001)] * 3, PLAIN: [Sample(100, 0.01, 1, 2)] * 3}
    samples |= {name: [Sample(100 * rate, 0.01 * cpu, 1, p99)] * 3 for name, (rate, cpu) in servers.items()}
    return Measured(case, samples, foreign)


def test_each_bar_is_judged_on_its_own_transport() -> None:
    """Fast enough and cheap enough is held; either alone is missed."""
    held = verdict.judge([found(cases.LOADED, grpcio=(1.6, 0.65), native=(15.9, 0.07))], {}, ["grpcio", "native"])
    assert [(each.name, each.held) for each in held] == [
        ("mlp/uint8/1@64 on native", False),
        ("mlp/uint8/1@64 on grpcio", True),
        ("mlp/uint8/1@64 on grpcio: p99", True),
        ("mlp/uint8/1@64 on native: p99", True),
    ]
    cheap = verdict.judge([found(cases.LOADED, grpcio=(1.6, 0.66), native=(16, 0.08))], {}, ["grpcio", "native"])
    assert [each.held for each in cheap] == [True, False, True, True]


def test_a_bar_without_a_transport_is_judged_on_the_one_that_is_chosen() -> None:
    """native where the server has it, else grpcio."""
    case = cases.Case("mlp", "uint8", 32, 4)
    measured = found(case, grpcio=(2.0, 0.5), native=(3.0, 0.3))
    assert [each.held for each in verdict.judge([measured], {}, ["grpcio", "native"])] == [True]
    assert [each.held for each in verdict.judge([found(case, grpcio=(2.0, 0.5))], {}, ["grpcio"])] == [False]


def test_a_transport_that_is_not_there_misses_its_bars() -> None:
    """And the line says so."""
    first = verdict.judge([found(cases.LOADED, grpcio=(2, 0.5))], {}, ["grpcio"])[0]
    assert (first.held, first.found) == (False, "the server has no transport native")


def test_a_void_case_is_neither_held_nor_missed() -> None:
    """More than a tenth of a processor used by others."""
    judged = verdict.judge([found(cases.LOADED, foreign=0.11, grpcio=(9, 0.1))], {}, ["grpcio"])
    assert [each.held for each in judged if "grpcio" in each.name] == [None, None]


def test_the_limit_the_tail_the_start_and_the_memory_are_judged() -> None:
    """Each just on the wrong side is missed."""
    limit = verdict.judge([found(cases.LIMIT_CASE, grpcio=(5, 0.12))], {}, ["grpcio"])
    assert [(each.found.split()[0], each.held) for each in limit] == [("0.83", False)]
    tail = verdict.judge([found(cases.LOADED, grpcio=(2, 0.5), p99=4.0)], {}, ["grpcio"])
    assert [each.held for each in tail if "p99" in each.name] == [False]
    starts = verdict.judge([], {"grpcio": Started(1.0, 149_000_000), "native": Started(0.9, 150_000_000)}, ["grpcio"])
    assert [each.held for each in starts] == [False, True, True, False]


@pytest.mark.parametrize(
    ("rate", "foreign", "status", "said"),
    [(2.0, 0.0, 0, "held    mlp/uint8/1@64 on grpcio: 2.00 x requests/s"),
     (1.5, 0.0, 1, "MISSED  mlp/uint8/1@64 on grpcio: 1.50 x requests/s, 0.050 x processor time (at least 1.6 x"),
     (2.0, 0.2, 2, "VOID, as others used more than 0.1 processors: mlp/uint8/1@64 0.20")],
    ids=["held", "missed", "void"],
)  # fmt: skip
def test_the_exit_status_says_held_missed_or_void(
    rate: float, foreign: float, status: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A bar that is missed is named, and makes it 1."""
    monkeypatch.setattr(bench, "available", lambda: ["grpcio", "native"])
    monkeypatch.setattr(bench.importlib.metadata, "version", lambda _: "1.0")
    monkeypatch.setattr(bench.h2load, "find", lambda: "h2load")
    measured = found(cases.LOADED, foreign, grpcio=(rate, 0.05), native=(20, 0.05))
    monkeypatch.setattr(bench, "_network", lambda *_: [measured])
    assert bench.main(["--only", cases.LOADED.name]) == status
    assert said in capsys.readouterr().out


def test_a_name_that_no_case_has_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With a name that there is."""
    assert bench.main(["--only", "vgg"]) == 2
    assert "no case fits vgg; they are named like mlp/uint8/1@1" in capsys.readouterr().err


def test_cases_are_chosen_by_name_part_or_pattern() -> None:
    """All without a choice; a case has a name of its own."""
    assert cases.chosen([], cases.CASES) == cases.CASES
    assert len({case.name for case in cases.CASES}) == len(cases.CASES) == 51
    assert [case.name for case in cases.chosen(["mlp/*/32@4"], cases.CASES)] == ["mlp/uint8/32@4", "mlp/v2/32@4"]
    assert {case.name for case in cases.chosen(["stream"], cases.CASES)} == {
        f"{network}/uint8/stream@256" for network in ("mlp", "lenet", "resnet")
    }


def test_a_quick_run_has_the_case_of_every_bar() -> None:
    """Nothing is left unjudged by --quick."""
    assert verdict.unjudged(cases.QUICK) == []
    assert cases.LIMIT_CASE in cases.QUICK
    assert cases.LOADED in cases.QUICK


def test_the_page_gets_the_figures_between_its_marks(tmp_path: Path) -> None:
    """What stood there goes, the rest stays; a page without marks is refused."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    measured = [found(cases.LOADED, grpcio=(2, 0.5))]
    judged = verdict.judge(measured, {"grpcio": GOOD}, ["grpcio"])
    table.put(page, table.markdown(measured, {"grpcio": GOOD}, judged, ["A machine."]))
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\nA machine.\n")
    assert text.endswith(f"\n{table.END}\nafter\n")
    assert "old" not in text
    assert "|  | grpcio | 200 | 2.00 | 5.0000 | 0.500 | 20% | 1.00 | 3.00 |" in text
    assert "| grpcio | 0.50 s | 100 MB |" in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="the figures go between them"):
        table.put(page, "figures")


def test_the_page_of_the_repository_has_the_marks() -> None:
    """So that a full run can end."""
    text = bench.PAGE.read_text()
    assert text.index(table.BEGIN) < text.index(table.END)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A machine that slows down between rounds slows both."""
    plain = [Sample(rate, 1 / rate) for rate in (100, 50, 10)]
    mine = [Sample(rate, 1 / rate) for rate in (200, 100, 90)]
    measured = Measured(cases.LOADED, {PLAIN: plain, "grpcio": mine})
    assert measured.ratio("grpcio", measure.rate) == 2.0
    assert measured.median("grpcio", measure.rate) == 100
