"""First weights from another model: the body whole, of the heads what both know by name."""

from __future__ import annotations

import pytest
import torch
from examples import small_configuration, small_plan

from medseg import documents, networks
from medseg.errors import ModelError
from medseg.labels import LabelSet
from medseg.model import MODEL_FILE, WEIGHTS_FILE, FoldFacts, ModelDocument, save_tensors
from medseg.training.pretrained import load_pretrained

THEIRS = LabelSet({"liver": (1,), "spleen": (2,), "kidney": (3,)})
OURS = LabelSet({"kidney": (1,), "tumour": (5,)})


def build(labels: LabelSet, seed: int, channels: int = 1) -> torch.nn.Module:
    spec = small_configuration().network
    generator = torch.Generator().manual_seed(seed)
    return networks.build(spec, channels, labels.output_count, generator=generator)


@pytest.fixture
def model(tmp_path):
    """A model folder of another dataset, and its tensors."""
    tensors = build(THEIRS, seed=1).state_dict()
    documents.save(ModelDocument(1, small_plan(labels=THEIRS), "3d_fullres"), tmp_path / MODEL_FILE)
    facts = FoldFacts((), "fp32", 1, 1.0, 0)
    save_tensors(tmp_path / "fold_0" / WEIGHTS_FILE, tensors, {"fold": documents.to_json(facts)})
    return tmp_path, tensors


def test_shared_classes_keep_their_outputs_and_new_ones_their_random_start(model):
    folder, theirs = model
    network = build(OURS, seed=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_pretrained(network, small_plan(labels=OURS), folder)
    after = network.state_dict()
    for name, value in after.items():
        if not name.startswith("heads."):
            assert torch.equal(value, theirs[name]), name
    background, kidney, tumour = after["heads.0.weight"]
    assert torch.equal(background, theirs["heads.0.weight"][0])
    assert torch.equal(kidney, theirs["heads.0.weight"][3])
    assert torch.equal(tumour, before["heads.0.weight"][2])


def test_another_topology_is_refused_by_name(model):
    folder, _ = model
    with pytest.raises(ModelError, match=r"another topology: encoder\.0\.0\.conv\.weight expected \(4, 2, 3, 3, 3\)"):
        load_pretrained(build(OURS, seed=2, channels=2), small_plan(labels=OURS), folder)
