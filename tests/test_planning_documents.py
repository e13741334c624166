"""The reviewed plans in ``plans/`` are what the rules make of their datasets' fingerprints.

After a deliberate change of a rule, ``python tests/test_planning_documents.py`` writes them anew for review.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.interop.nnunet import plan_from_documents
from medseg.planning import Plan, compare

PLANS = Path(__file__).resolve().parents[1] / "plans"
FINGERPRINTS = Path(__file__).resolve().parents[2] / "shared" / "golden_plans_msd"
NAMES = sorted(path.stem for path in PLANS.glob("*.json"))


def rebuilt(name: str) -> Plan:
    """The plan of a Medical Segmentation Decathlon task, from the fingerprint that nnU-Net published for it."""
    dataset, fingerprint = (
        json.loads((FINGERPRINTS / name / document).read_text(encoding="utf-8"))
        for document in ("dataset.json", "dataset_fingerprint.json")
    )
    return plan_from_documents({**dataset, "name": name}, fingerprint)


@pytest.mark.parametrize("name", NAMES)
def test_reviewed_plans_read_back(name):
    plan = Plan.load(PLANS / f"{name}.json")
    assert plan.dataset_name == name
    assert plan.explain()


@pytest.mark.parametrize("name", NAMES)
def test_reviewed_plans_are_what_the_rules_give(shared, name):
    reviewed, made = Plan.load(PLANS / f"{name}.json"), rebuilt(name)
    assert reviewed == made, compare(reviewed, made)


def test_every_fingerprint_has_its_reviewed_plan(shared):
    assert [path.name for path in sorted(FINGERPRINTS.iterdir()) if path.is_dir()] == NAMES


if __name__ == "__main__":
    for folder in sorted(path for path in FINGERPRINTS.iterdir() if path.is_dir()):
        rebuilt(folder.name).save(PLANS / f"{folder.name}.json")
