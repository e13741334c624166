"""Budgets: the speed that is measured once, the network of a fold, and runs that keep to their time."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import small_configuration, small_plan, tiny_workspace

from medseg import cli, documents, io
from medseg.cli.commands import training
from medseg.crossvalidation import budget, size_for_budget, train
from medseg.crossvalidation.folds import CLOSING_S, LOADING_S, fill_budget, held_out_deadline
from medseg.model import FOLD_PLAN_FILE, WEIGHTS_FILE, fold_folder, load_model
from medseg.planning.plan import Configuration, Plan
from medseg.planning.sizing import LEAST_TRAINING, Rate, Sizing, Speed, choose_sizes
from medseg.planning.sizing import DatasetSize as Size
from medseg.prediction import load_predictor
from medseg.prompting.unet.training import train_promptable
from medseg.training.recipe import recipe_for_iterations
from medseg.training.run import Run
from medseg.training.speed import measure_speed
from medseg.training.starting import RUN_FILE
from medseg.workspace import Workspace

CPU = torch.device("cpu")
# Four seconds a step with the tiny network whole: in minutes a smaller one does better.
RATES = tuple(Rate(width, 0.05, 4000 * width, 500 * width) for width in (0.25, 0.5, 1.0))


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> Path:
    return tiny_workspace(tmp_path_factory.mktemp("budget")).root


@pytest.fixture
def workspace(planned, tmp_path) -> Workspace:
    return Workspace.open(shutil.copytree(planned, tmp_path / "workspace"))


@pytest.fixture
def measurements(monkeypatch) -> list[str]:
    """Names of the configurations whose speed was measured; none is, a made-up one is given."""
    asked: list[str] = []

    def made_up(
        plan, configuration, device, precision, case_s, limit_s=None, known=(), trainer=None, name=None
    ) -> Speed:
        asked.append(name or configuration.name)
        assert 0 < case_s < 60
        features = configuration.network.features
        return Speed(budget.machine_name(device), precision, asked[-1], features, case_s, RATES)

    monkeypatch.setattr(budget, "measure_speed", made_up)
    return asked


def sized(workspace: Workspace, budget_s=60.0, precision="fp32", **options) -> Sizing:
    return size_for_budget(workspace, workspace.plan.configuration(), budget_s, CPU, precision, **options)


def speeds(workspace: Workspace) -> tuple[Speed, ...]:
    return documents.load(budget.Speeds, workspace.root / budget.SPEED_FILE).speeds


def essence(configuration: Configuration) -> Configuration:
    return replace(configuration, decisions=())


def test_a_machine_is_measured_once(workspace, measurements, monkeypatch):
    first = sized(workspace)
    assert measurements == ["3d_fullres"]
    (speed,) = speeds(workspace)
    assert speed.rates == RATES
    again = sized(workspace)
    assert len(measurements) == 1
    assert essence(again.configuration) == essence(first.configuration)
    assert again.steps == first.steps
    sized(workspace, precision="bf16")
    monkeypatch.setattr(budget, "machine_name", lambda _: "another machine")
    sized(workspace)
    assert len(measurements) == 3
    assert {(entry.machine, entry.precision) for entry in speeds(workspace)} == {
        (speed.machine, "fp32"),
        (speed.machine, "bf16"),
        ("another machine", "fp32"),
    }


def test_another_network_is_another_speed(workspace, measurements):
    sized(workspace)
    own = workspace.plan.configuration()
    wider = replace(own, network=replace(own.network, features=(16, 32)))
    size_for_budget(workspace, wider, 60.0, CPU, "fp32")
    size_for_budget(workspace, own, 60.0, CPU, "fp32", name="3d_fullres_promptable")
    assert measurements == ["3d_fullres", "3d_fullres", "3d_fullres_promptable"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 1, "speeds": [{"machine": 3}]}'])
def test_a_damaged_record_is_measured_anew(workspace, measurements, caplog, damage):
    (workspace.root / budget.SPEED_FILE).write_text(damage)
    with caplog.at_level(logging.WARNING, logger="medseg"):
        sized(workspace)
    assert measurements == ["3d_fullres"]
    assert "speed.json" in caplog.text
    assert "measured anew" in caplog.text
    assert len(speeds(workspace)) == 1


def test_auto_is_a_time(workspace, measurements):
    assert 300 <= sized(workspace, "auto").budget_s <= 24 * 3600


def test_held_out_cases_may_be_left_out(workspace, measurements):
    assert sized(workspace).held_out_s > 0 == sized(workspace, held_out=False).held_out_s


@pytest.mark.parametrize(
    ("patch", "spacing"), [((8, 8, 8), (1.0,) * 3), ((24, 24, 24), (1.0,) * 3), ((64, 64), (1, 1))]
)
def test_a_machine_is_measured_with_networks_of_any_plan(patch, spacing):
    """Patches smaller than those that are timed are timed as they are."""
    own = small_configuration(spacing, patch)
    plan = small_plan(own)
    found = measure_speed(plan, own, CPU, "fp32", 0.5)
    assert [rate.width for rate in found.rates] == [0.25, 0.5, 1.0]
    for rate in found.rates:
        assert rate.step_s >= 0
        assert 0 < rate.training_s < 1e6
        assert 0 < rate.prediction_s < 1e6
    assert (found.configuration, found.features, found.case_s) == (own.name, (4, 8), 0.5)


def some_sizing(budget_s: float = 100.0) -> Sizing:
    own = small_configuration()
    return choose_sizes(
        small_plan(own), own, Speed("m", "fp32", own.name, (4, 8), 0.1, RATES), Size(4, 1), budget_s, freedom="none"
    )


RUN = Run(1, "3d_fullres", 0, 0, "fp32", recipe_for_iterations(1, 2))


def test_what_is_left_is_filled_with_training(caplog):
    sizing = some_sizing()
    with caplog.at_level(logging.WARNING, logger="medseg"):
        run = fill_budget(RUN, sizing, spent_s=20.0)
    assert caplog.text == ""
    left = 100 - 20 - LOADING_S - sizing.held_out_s - CLOSING_S
    assert run.training_seconds == pytest.approx(left)
    assert (run.budget_seconds, run.held_out_seconds) == (100.0, sizing.held_out_s)
    assert run.recipe.iterations == int(left / sizing.step_s)
    assert run.recipe.batch_size == sizing.configuration.batch_size
    assert fill_budget(RUN, sizing, 20.0, processes=3).recipe.batch_size == 3 * run.recipe.batch_size


def test_held_out_cases_get_what_was_kept_for_them():
    """A run that began at 1000 with 100 s, of which 10 were kept: in time, early, late, and without a budget."""
    run = replace(RUN, budget_seconds=100.0, training_seconds=80.0, held_out_seconds=10.0)
    end = 1100 - CLOSING_S
    assert held_out_deadline(run, 1000.0, end - LOADING_S - 10) == pytest.approx(end)
    assert held_out_deadline(run, 1000.0, 1040.0) == pytest.approx(end)
    assert held_out_deadline(run, 1000.0, 1200.0) == pytest.approx(1210 + LOADING_S)
    assert held_out_deadline(RUN, 1000.0, 1200.0) == math.inf


@pytest.mark.parametrize("spent_s", [60.0, 1000.0])
def test_long_preparing_leaves_training_half_and_says_so(caplog, spent_s):
    with caplog.at_level(logging.WARNING, logger="medseg"):
        run = fill_budget(RUN, some_sizing(), spent_s)
    assert run.training_seconds == LEAST_TRAINING * 100
    assert "of the budget of 100 s" in caplog.text
    assert len(caplog.records) == 1


def command(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_planning_and_estimating_name_one_network(workspace, measurements, capsys):
    place = ("-w", workspace.root, "--budget", "8m", "--device", "cpu", "--precision", "fp32")
    code, out, _ = command(capsys, "plan", find_dataset(workspace), *place, "--json")
    assert code == 0
    told = json.loads(out)["budget"]
    code, out, _ = command(capsys, "train", "--fold", "0", *place, "--estimate", "--json")
    assert code == 0
    estimated = json.loads(out)
    del told["end"], estimated["end"]
    assert estimated == told
    assert estimated["width"] < 1
    assert len(measurements) == 1
    code, text, _ = command(capsys, "train", "--fold", "0", *place, "--estimate")
    assert code == 0
    assert f"about {estimated['steps']}," in text
    assert estimated["because"] in text
    assert not Workspace.open(workspace.root).model_folder("3d_fullres").exists()


def find_dataset(workspace: Workspace) -> Path:
    return workspace.dataset.cases[0].label.parents[1]  # type: ignore[union-attr]


def test_a_network_that_is_not_chosen_is_not_estimated(workspace, measurements, capsys):
    """Pretrained weights fit the plan's own network, as --network plan says."""
    seen = []
    place = ("-w", workspace.root, "--fold", "0", "--budget", "8m", "--device", "cpu", "--precision", "fp32")
    for option in ([], ["--network", "plan"], ["--pretrained", workspace.root]):
        code, out, _ = command(capsys, "train", *place, "--estimate", "--json", *option)
        assert code == 0
        seen.append(json.loads(out)["configuration"]["network"]["features"])
    own = list(workspace.plan.configuration().network.features)
    assert seen[0] != own
    assert seen[1:] == [own, own]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--json"], "goes with --estimate"), (["--estimate", "--promptable"], "leave out --promptable")],
)
def test_wrong_usage_of_estimates(workspace, capsys, words, message):
    code, out, err = command(capsys, "train", "-w", workspace.root, "--fold", "0", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_budget_is_kept_from_measuring_to_predicting(workspace, capsys, monkeypatch):
    """Estimated, trained and used; the machine's speed is measured in earnest."""
    place = ("-w", workspace.root, "--fold", "0", "--budget", "15s", "--device", "cpu", "--precision", "fp32")
    code, out, _ = command(capsys, "train", *place, "--estimate", "--json")
    assert code == 0
    estimated = json.loads(out)
    began = time.monotonic()
    monkeypatch.setattr(training, "process_start", lambda: began)
    code, out, err = command(capsys, "train", *place, "--network", "auto")
    assert code == 0, err
    assert time.monotonic() - began < 90
    folder = fold_folder(workspace.model_folder("3d_fullres"), 0)
    trained = Plan.load(folder / FOLD_PLAN_FILE).configuration()
    assert documents.to_json(essence(trained)) == {**estimated["configuration"], "decisions": []}
    run = documents.load(Run, folder / RUN_FILE)
    assert run.budget_seconds == 15
    assert run.held_out_seconds == pytest.approx(estimated["held_out_s"])
    assert run.recipe.batch_size == trained.batch_size
    assert len(list((folder / "validation").glob("*.nii.gz"))) >= 1
    assert load_model(folder.parent).configuration == trained
    scan = next((find_dataset(workspace) / "imagesTs").glob("*.nii.gz"))
    mask = load_predictor(folder.parent, device="cpu").predict(scan)
    assert mask.array.shape == io.read([scan], channels=1).geometry.shape
    assert set(np.unique(mask.array)) <= {0, *workspace.plan.labels.values}


def test_the_plan_s_network_is_kept_where_it_is_asked_for(workspace, measurements):
    result = train(
        workspace, fold=0, budget_seconds=4.0, network="plan", began=time.monotonic(), device="cpu", precision="fp32"
    )
    assert result is not None
    trained = Plan.load(result.folder / FOLD_PLAN_FILE).configuration()
    own = workspace.plan.configuration()
    assert replace(essence(trained), batch_size=own.batch_size) == essence(own)
    assert (result.folder / WEIGHTS_FILE).is_file()


def remember_speed(workspace: Workspace, name: str) -> None:
    """A hundredth of the made-up times: in four seconds there are steps enough to prefer a narrow network."""
    rates = tuple(replace(rate, step_s=1e-4, training_s=rate.training_s / 100) for rate in RATES)
    features = workspace.plan.configuration().network.features
    here = Speed(budget.machine_name(CPU), "fp32", name, features, 0.1, rates)
    documents.save(budget.Speeds(1, (here,)), workspace.root / budget.SPEED_FILE)


def test_folds_that_were_trained_before_keep_their_network(workspace, measurements):
    """Their plan was the model's, which is replaced."""
    own = workspace.plan.configuration()
    before = train(workspace, fold=0, iterations=1, device="cpu", precision="fp32")
    assert before is not None
    (before.folder / FOLD_PLAN_FILE).unlink()
    remember_speed(workspace, own.name)
    assert train(workspace, fold=1, budget_seconds=4.0, device="cpu", precision="fp32") is not None
    model = load_model(before.folder.parent)
    assert [tuple(part.weights) for part in model.parts] == [("0",), ("1",)]
    assert model.configuration.network == own.network
    assert model.others[0].configuration.network.features < own.network.features
    for part in model.parts:
        part.build_networks()


def test_a_promptable_network_takes_fewer_features_alone(workspace, measurements):
    """Its patch follows from the objects. A second start finds the network in the fold's plan."""
    name, own = "3d_fullres_promptable", workspace.plan.configuration()
    remember_speed(workspace, name)
    folder = workspace.model_folder(name)
    options = {"budget_seconds": 4.0, "device": "cpu", "precision": "fp32"}
    assert train_promptable(workspace, should_stop=lambda: True, **options) is None
    begun = Plan.load(fold_folder(folder, 0) / FOLD_PLAN_FILE).configuration(name)
    assert begun.network.features < own.network.features
    assert begun.spacing_mm == own.spacing_mm
    assert train_promptable(workspace, **options) == folder
    assert measurements == []
    assert essence(load_model(folder).configuration) == essence(begun)
    load_model(folder).build_networks()
