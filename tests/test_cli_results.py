"""The command line on what came out: show, compare and export; and plans, quiet runs, versions."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch

from reproduce import cli, records, runner
from reproduce.cli import running
from reproduce.evaluation import paired, wilson
from reproduce.papers import double, dqa, registry
from reproduce.report import double as report
from reproduce.report.catalogue import TABLES
from reproduce.report.results import Results
from tests.stored import put, right
from tests.test_cli import TINY, breaks, few, suite

__all__ = ["few"]  # a fixture


@pytest.fixture(autouse=True)
def alone(monkeypatch, folders):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def measured(name: str, bits, *, network=TINY[1], dataset: str = "digits") -> records.Record:
    """A record that nobody had to measure."""
    unit = suite(network)[name]
    run = records.Run(wall_s=90.0, device="an abacus", versions={"torch": "9.9"}, commit="c0ffee",
                      dirty=False, created="2026-01-02T03:04:05")  # fmt: skip
    record = records.Record(folder=unit.folder, name=name, run=run, bits=np.array(bits, bool),
                            configuration=records.configuration(unit),
                            dataset={"name": dataset, "sha256": dataset})  # fmt: skip
    records.write(record)
    return record


def said(capsys, *arguments: str) -> dict:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert cli.main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


# --- show -----------------------------------------------------------------------------------------


def test_show_says_what_was_asked_what_came_out_at_what_cost_and_where(capsys, few):
    record = measured("pgd", [1] * 7 + [0] * 5)
    found = said(capsys, "show", record.key)
    assert found["asked"] == record.configuration and found["suite"] == ["table"]
    low, high = (100 * v for v in wilson(7, 12))
    expected = {"images": 12, "count": 7, "percent": 700 / 12, "low": low, "high": high}
    assert found["right"] == pytest.approx(expected)
    assert found["cost"]["seconds"] == 90 and found["cost"]["device"] == "an abacus"
    assert found["file"] == str(record.path)
    assert cli.main(["show", record.key]) == 0
    lines = dict(x.split(None, 1) for x in capsys.readouterr().out.splitlines())
    assert lines["right"] == f"7 of 12: {700 / 12:.1f} % ({low:.1f}–{high:.1f})"
    assert lines["asked.attack.eps_255"] == "20" and lines["cost.took"] == "90 s"


def test_show_of_a_network_gives_the_last_epoch_and_of_what_failed_the_reason(
    capsys, few, monkeypatch
):
    record = runner.run(TINY[1], runner.Stop())
    curves = said(capsys, "show", TINY[1].key)["last epoch"]
    assert curves["loss"] == record.values["loss"][-1]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "training_steps", breaks)
        with pytest.raises(ArithmeticError):
            runner.run(TINY[0], runner.Stop())
    found = said(capsys, "show", TINY[0].key)
    assert found["result"] == "not run" and found["failed"] == ["ArithmeticError: it broke"]


def test_a_record_of_a_configuration_that_was_changed_since_is_shown(capsys, few, monkeypatch):
    record = measured("pgd", [1, 0])
    monkeypatch.setattr(registry, "networks", lambda *_filters: iter(()))
    assert said(capsys, "show", record.key)["right"]["count"] == 1


def test_the_first_digits_of_a_key_will_do_if_no_other_begins_so(capsys, few, monkeypatch):
    record = measured("clean", [1, 0])
    assert said(capsys, "show", record.key[:5])["key"] == record.key
    found = said(capsys, "list", "--key", record.key[:5])
    assert found["key"] == record.key
    same = [suite(n)["pgd"] for n in TINY[:2]]
    for number, unit in enumerate(same):
        unit.__dict__["key"] = f"abcd000{number}"
    twins = {TINY[n]: {"pgd": unit} for n, unit in enumerate(same)}
    monkeypatch.setattr(registry, "suites", lambda network: {"table": twins.get(network, {})})
    for command in (["show"], ["list", "--key"], ["run", "--key"]):
        said_ = refused(capsys, *command, "abcd")
        assert "2 keys begin with 'abcd': abcd0000, abcd0001; give more digits" in said_
    assert "no unit has the key 'abce'" in refused(capsys, "show", "abce")


def test_a_key_that_nothing_has_is_refused_in_a_short_line(capsys):
    err = refused(capsys, "run", "--key", "00000000")
    assert "key='00000000'" in err and len(err) < 150


# --- compare --------------------------------------------------------------------------------------


def test_compare_takes_the_images_that_both_met_in_pairs(capsys, few):
    one, other = measured("pgd", [1, 1, 0, 1, 0, 1, 1]), measured("clean", [1, 0, 0, 1, 1])
    found = said(capsys, "compare", one.key, other.key)
    first, second = one.bits[:5], other.bits
    difference, margin = paired(first, second)
    assert found["images"] == 5
    assert found["right"][one.key]["count"] == 3 and found["right"][other.key]["count"] == 3
    assert found["right alone"] == {one.key: 1, other.key: 1}
    expected = {"points": difference, "low": difference - margin, "high": difference + margin}
    assert found["difference"] == expected and margin > 0


def test_compare_refuses_what_has_no_common_images(capsys, few):
    one = measured("pgd", [1, 0])
    other = measured("clean", [1, 0], dataset="mnist")
    assert "are of other images: digits and mnist" in refused(capsys, "compare", one.key, other.key)
    missing = suite(TINY[0])["pgd"].key
    assert f"{missing} was not run" in refused(capsys, "compare", one.key, missing)
    runner.run(TINY[2], runner.Stop())
    runner.run(TINY[0], runner.Stop())
    record = measured("clean", [1, 0], network=TINY[0])
    record.path.unlink()
    record.dataset = records.find(TINY[0]).dataset
    records.write(record)
    assert "(network) has no bits" in refused(capsys, "compare", record.key, TINY[2].key)


# --- export ---------------------------------------------------------------------------------------


def test_export_prints_a_table_that_reads_back_as_what_is_in_the_records(capsys, monkeypatch):
    network = next(n for n in registry.networks("double-quantization", "smoke", 0))
    measurement = registry.suites(network)["table"]["clean/8bit"]
    run = records.Run(wall_s=3.0, device="an abacus", versions={}, commit=None, dirty=None,
                      created="2026-01-02T03:04:05")  # fmt: skip
    bits = np.array([1, 0, 1], bool)
    records.write(
        records.Record(folder=measurement.folder, name=measurement.name, run=run, bits=bits,
                       configuration=records.configuration(measurement), dataset={})
    )  # fmt: skip
    assert cli.main(["export", "records", "--scale", "smoke"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["key"], row["images"], row["what"]) == (measurement.key, "3", "right")
    assert float(row["percent"]) == pytest.approx(200 / 3)
    assert float(row["high"]) == pytest.approx(100 * wilson(2, 3)[1])
    assert cli.main(["export", "records", "--scale", "smoke", "--latex"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\\begin{tabular}") and "66.67 & " in out


def test_export_names_its_tables_and_refuses_others(capsys):
    assert cli.main(["export"]) == 0
    assert capsys.readouterr().out.splitlines() == list(TABLES)
    assert "no table 'dqa'; there are claims, " in refused(capsys, "export", "dqa")
    assert "leave --scale out" in refused(capsys, "export", "claims", "--scale", "paper")
    none = refused(capsys, "export", "dqa-table1", "--scale", "paper")
    assert "nothing of dqa-table1 was run at scale 'paper'" in none


@pytest.mark.parametrize("name", sorted(TABLES.keys() - {"claims"}))  # claims: test_claims.py
def test_every_table_is_one_of_numbers_at_some_scale(name, monkeypatch):
    monkeypatch.delenv("REPRODUCE_RESULTS")
    frame = TABLES[name]("laptop")
    assert len(frame) and frame.columns.is_unique
    assert frame.select_dtypes("number").notna().any().any()


def test_every_command_counts_agreeing_images_as_agreed_not_as_right(capsys):
    target = dqa.network("patterns", "dynamic", 1, scale="smoke")
    substitute = dqa.substitute(target, "vgg16")
    (asked,) = (m for m in dqa.transfer(substitute).values() if m.kind == "agreement")
    run = records.Run(wall_s=3.0, device="an abacus", versions={}, commit=None, dirty=None,
                      created="2026-01-02T03:04:05")  # fmt: skip
    record = records.Record(folder=asked.folder, name=asked.name, run=run, dataset={},
                            bits=np.array([1, 0, 1], bool),
                            configuration=records.configuration(asked))  # fmt: skip
    records.write(record)
    said_of_it = said(capsys, "show", asked.key)
    assert said_of_it["agreed"]["count"] == 2 and "right" not in said_of_it
    assert list(TABLES["records"]("smoke")["what"]) == ["agreed"]
    assert "2 of 3 agreed" in running._said(record)


def test_each_seed_of_table_ii_has_rows_and_intervals_of_its_own(monkeypatch):
    first = double.network(8, False, scale="smoke")
    seeds = [first, replace(first, seed=1)]
    for network, count in zip(seeds, (1, 3), strict=True):
        put(registry.suites(network)["table"]["pgd/8bit"], bits=right(count, 4))
    monkeypatch.setattr(report, "find", lambda scale: [Results(network) for network in seeds])
    frame = TABLES["double-table2"]("smoke")
    assert list(frame["seed"]) == [0, 1] and list(frame["measured"]) == [25, 75]
    assert list(frame["key"]) == [network.key for network in seeds]
    low, high = wilson(3, 4)
    assert tuple(frame.loc[1, ["low", "high"]]) == pytest.approx((100 * low, 100 * high))


def test_table_1_is_exported_as_published_and_as_recorded(monkeypatch):
    monkeypatch.delenv("REPRODUCE_RESULTS")
    frame = TABLES["dqa-table1"]("paper").set_index(["mixed", "network", "seed", "attack"])
    row = frame.loc[(True, "fixed, 1 bit", 0, "pgd")]
    (network,) = [n for n in registry.networks("dqa", "paper", 0) if n.key == row["key"]]
    record = records.find(registry.suites(network)["table"]["pgd"])
    assert row["published"] == 98.47
    assert (row["measured"], row["images"]) == (pytest.approx(record.accuracy), record.total)


# --- Plans, quiet runs, versions ------------------------------------------------------------------


def test_a_dry_run_names_what_would_be_run_with_what_it_needs_and_runs_nothing(capsys, few):
    assert cli.main(["run", "--dry-run", "--suite", "table", "--cell", "relu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in out[:-1]] == ["network", "clean", "pgd"]
    assert "3 to run" in out[-1] and "3 of which nothing like them was run" in out[-1]
    assert list(records.every()) == []


def test_a_dry_run_estimates_by_the_speed_of_what_was_run(capsys, few):
    record = runner.run(TINY[1], runner.Stop())
    record.path.unlink()
    record.run = records.Run(**{**vars(record.run), "wall_s": 960.0})
    records.write(record)
    assert cli.main(["run", "--dry-run", "--suite", "network"]) == 0
    lines = capsys.readouterr().out.splitlines()
    images = {"fixed-2bit": 51, "dynamic-1bit": 54}  # against 48 in 960 s
    assert [line.split()[-2:] for line in lines[:2]] == [["17", "min"], ["18", "min"]]
    assert f"2 to run: about {sum(images.values()) / 3:.0f} min in one process" == lines[-1]


def test_a_quiet_run_prints_failures_alone(capsys, few, monkeypatch):
    assert cli.main(["run", "--quiet", "--cell", "relu"]) == 0
    assert cli.main(["run", "--quiet", "--cell", "relu"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(runner, "training_steps", breaks)
    assert cli.main(["run", "--quiet", "--suite", "network"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("failed: ArithmeticError") == err.count("\n") == 2


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"{version('reproduce')}\n"
