"""Which precision is taken: claims of a processor, and what it measures."""

from __future__ import annotations

import pytest
import torch

from medseg import device
from medseg.device import bf16_speedup, choose_precision, machine_name

CPU = torch.device("cpu")


@pytest.fixture
def claims(monkeypatch):
    """Sets what the processor claims and what is measured; measuring is refused where it is not said."""

    def set_claims(capability: str | None, speedup: float | None, onednn: bool = True) -> None:
        known = {} if capability is None else {capability: True}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
        monkeypatch.setattr(device, "_onednn_computes_bf16", lambda: onednn)
        measured = (lambda: pytest.fail("it was measured")) if speedup is None else (lambda: speedup)
        monkeypatch.setattr(device, "bf16_speedup", measured)

    return set_claims


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_is_taken_where_it_is_faster(claims, capability):
    claims(capability, 2.0)
    assert choose_precision("auto", CPU) == "bf16"


@pytest.mark.parametrize("speedup", [0.02, 1.0, 1.05])
def test_a_claim_that_does_not_hold_is_not_believed(claims, speedup):
    claims("amx_bf16", speedup)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(("capability", "onednn"), [(None, True), ("avx2", True), ("amx_bf16", False)])
def test_nothing_is_measured_without_a_claim(claims, capability, onednn):
    """The library's reference code would take seconds a layer."""
    claims(capability, None, onednn)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_was_asked_for_is_not_measured(claims, name):
    claims("amx_bf16", None)
    assert choose_precision(name, CPU) == name


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_measuring_leaves_threads_and_gradients_as_they_were(two_threads, monkeypatch):
    monkeypatch.setattr(device, "_PROBE_REPETITIONS", 1)
    used = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a: used.append(torch.get_num_threads()) or grad(*a))
    with torch.inference_mode(False), torch.no_grad():
        assert bf16_speedup.__wrapped__() > 0
        assert not torch.is_grad_enabled()
    assert used == [1, 1]
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(torch.autograd, "grad", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bf16_speedup.__wrapped__()
    assert torch.get_num_threads() == 2


def test_a_machine_is_its_processor_its_threads_and_what_it_is_kept_from(two_threads, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(device, "_processor", lambda: "Processor X")
    assert machine_name(CPU) == "Processor X, 2 threads"
    torch.set_num_threads(1)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine_name(CPU) == "Processor X, 1 thread, AVX2 at most"
