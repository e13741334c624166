"""The networks: answers by hand, nnU-Net's sizes and names, and that the forms for CPU and GPU agree."""

from __future__ import annotations

import math
import resource
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from medseg import networks
from medseg.architecture import NetworkSpec, stage_shapes
from medseg.errors import UsageError
from medseg.networks import operations
from medseg.networks.blocks import ResidualBlock
from medseg.networks.memory import freed_memory_kept
from medseg.networks.operations import average_pool, normalize, upsample


def small_spec(family: str = "plain_unet", dimensions: int = 3) -> NetworkSpec:
    """Two stages, the second coarser in the last axes only."""
    return NetworkSpec(
        family=family,  # pyright: ignore[reportArgumentType]
        features=(4, 6),
        kernel_sizes=((1, 3, 3)[-dimensions:], (3,) * dimensions),
        strides=((1,) * dimensions, (1, 2, 2)[-dimensions:]),
        encoder_blocks=(1, 2),
        decoder_blocks=(1,),
    )


def msd_spec(family: str) -> NetworkSpec:
    """What nnU-Net plans for most tasks of the Medical Segmentation Decathlon."""
    plain = family == "plain_unet"
    return NetworkSpec(
        family=family,  # pyright: ignore[reportArgumentType]
        features=(32, 64, 128, 256, 320, 320),
        kernel_sizes=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        encoder_blocks=(2,) * 6 if plain else (1, 3, 4, 6, 6, 6),
        decoder_blocks=(2 if plain else 1,) * 5,
    )


@st.composite
def specs(draw: st.DrawFn) -> NetworkSpec:
    """Small networks of both families, anisotropic in strides and kernels."""
    dimensions = draw(st.sampled_from((2, 3)))
    stages = draw(st.integers(1, 3))
    axes = st.tuples(*[st.sampled_from((1, 2))] * dimensions)
    kernels = st.tuples(*[st.sampled_from((1, 3))] * dimensions)
    return NetworkSpec(
        family=draw(st.sampled_from(("plain_unet", "residual_unet"))),
        features=tuple(draw(st.sampled_from((2, 3, 5))) for _ in range(stages)),
        kernel_sizes=tuple(draw(kernels) for _ in range(stages)),
        strides=((1,) * dimensions, *(draw(axes) for _ in range(stages - 1))),
        encoder_blocks=tuple(draw(st.integers(1, 2)) for _ in range(stages)),
        decoder_blocks=tuple(draw(st.integers(1, 2)) for _ in range(stages - 1)),
    )


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def pytorch_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on the CPU as on a GPU."""
    monkeypatch.setattr(operations, "_own_form", lambda x: False)


def test_network_of_one_stage_by_hand() -> None:
    spec = NetworkSpec("plain_unet", (1,), ((1, 1),), ((1, 1),), (1,), ())
    network = networks.build(spec, 1, 1)
    values = {"conv.weight": 10.0, "conv.bias": 7.0, "norm.weight": 2.0, "norm.bias": 0.0}
    state = {f"encoder.0.0.{name}": value for name, value in values.items()} | {
        "heads.0.weight": 3.0,
        "heads.0.bias": 0.5,
    }
    network.load_state_dict({name: torch.full_like(network.state_dict()[name], value) for name, value in state.items()})
    # normalised to -1 and 1, doubled, leaky ReLU keeps a hundredth of -2, the head takes three times that and a half
    logits = network(torch.tensor([[[[-1.0, 1.0], [1.0, -1.0]]]]))
    assert logits.flatten().tolist() == pytest.approx([0.44, 6.5, 6.5, 0.44], rel=1e-4)


def test_normalisation_by_hand() -> None:
    # variance 3e-5, so with nnU-Net's epsilon of 1e-5 divided by the root of 4e-5
    x = math.sqrt(3e-5) * torch.tensor([[[[-1.0, 1.0]]]])
    half_root_3 = math.sqrt(3) / 2
    out = normalize(x, torch.tensor([2.0]), torch.tensor([1.0]), activate=False)
    assert out.flatten().tolist() == pytest.approx([1 - 2 * half_root_3, 1 + 2 * half_root_3], rel=1e-5)
    activated = normalize(x, torch.tensor([2.0]), torch.tensor([1.0]), True, residual=torch.full_like(x, -1.0))
    assert activated.flatten().tolist() == pytest.approx([-0.02 * half_root_3, 2 * half_root_3], rel=1e-5)


def test_upsampling_by_hand() -> None:
    weight = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])  # one channel to one, blocks of 2 x 3
    out = upsample(torch.tensor([[[[1.0, 10.0]]]]), weight, torch.tensor([0.5]))
    assert out.tolist() == [[[[1.5, 2.5, 3.5, 10.5, 20.5, 30.5], [4.5, 5.5, 6.5, 40.5, 50.5, 60.5]]]]


def test_pooling_by_hand() -> None:
    x = torch.tensor([[[[1.0, 3.0, 5.0, 7.0], [2.0, 2.0, 0.0, 8.0]]]])
    assert average_pool(x, (2, 2)).tolist() == [[[[2.0, 5.0]]]]
    assert average_pool(x, (1, 4)).tolist() == [[[[4.0], [3.0]]]]


def test_a_residual_block_begins_as_its_shortcut() -> None:
    network = networks.build(small_spec("residual_unet"), 1, 2)
    block = network.encoder[1][1]
    assert isinstance(block, ResidualBlock)
    x = noise(2, 6, 4, 4, 4)
    torch.testing.assert_close(block(x), functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize(("family", "millions"), [("plain_unet", 31.2), ("residual_unet", 102.4)])
def test_nnunets_parameter_counts(family: str, millions: float) -> None:
    shapes = networks.tensor_shapes(msd_spec(family), in_channels=1, out_channels=3)
    assert round(sum(map(prod, shapes.values())) / 1e6, 1) == millions


def test_tensor_names() -> None:
    def layers(family: str) -> list[str]:
        shapes = networks.tensor_shapes(small_spec(family), 1, 2)
        return [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]

    up = ["decoder.0.up", "decoder.0.blocks.0.conv", "decoder.0.blocks.0.norm", "heads.0"]
    plain = [f"encoder.{place}.{layer}" for place in ("0.0", "1.0", "1.1") for layer in ("conv", "norm")]
    assert layers("plain_unet") == plain + up
    blocks = {"0.0": ("first", "second"), "1.0": ("first", "second", "shortcut"), "1.1": ("first", "second")}
    residual = [
        f"encoder.{place}.{part}.{layer}"
        for place, parts in blocks.items()
        for part in parts
        for layer in ("conv", "norm")
    ]
    assert layers("residual_unet") == ["stem.conv", "stem.norm", *residual, *up]


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(1, 3), st.integers(1, 4))
def test_every_stage_has_logits_of_its_own_size(spec: NetworkSpec, channels: int, classes: int) -> None:
    network = networks.build(spec, channels, classes)
    patch = tuple(2 * size for size in spec.divisor)
    x = noise(2, channels, *patch)
    scales = network.forward_scales(x)
    expected = stage_shapes(spec, patch)[: max(spec.stages - 1, 1)]
    assert [tuple(logits.shape) for logits in scales] == [(2, classes, *shape) for shape in expected]
    torch.testing.assert_close(network(x), scales[0], rtol=1e-4, atol=1e-5)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == networks.tensor_shapes(
        spec, channels, classes
    )
    sum(logits.square().sum() for logits in scales).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(parameter.grad is not None for parameter in network.parameters())


@settings(max_examples=20, deadline=None)
@given(specs())
def test_samples_do_not_see_each_other(spec: NetworkSpec) -> None:
    network = networks.build(spec, 1, 2)
    x = noise(2, 1, *(2 * size for size in spec.divisor))
    torch.testing.assert_close(network(x)[1:], network(x[1:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 4, 4, 5), r"multiples of \(1, 2, 2\), found \(4, 4, 5\)"),
        ((1, 3, 4, 4, 4), r"expected an input \(batch, 1, Z, Y, X\), found \(1, 3, 4, 4, 4\)"),
        ((1, 1, 4, 4), r"expected an input \(batch, 1, Z, Y, X\)"),
        ((1, 1, 1, 2, 2), "a single voxel is left"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        networks.build(small_spec(), 1, 2)(torch.zeros(shape))


def test_weights_depend_on_the_generator_alone() -> None:
    before = torch.random.get_rng_state()

    def weights(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        state = networks.build(small_spec(), 1, 2, generator=generator).state_dict()
        return torch.cat([tensor.flatten() for tensor in state.values()])

    first = weights(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(weights(3), first)
    assert not torch.equal(weights(4), first)
    assert torch.equal(weights(None), weights(0))
    torch.random.set_rng_state(before)


def test_initial_weights_are_he_normal() -> None:
    spec = NetworkSpec("plain_unet", (32, 64), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (2, 2), (2,))
    state = networks.build(spec, 1, 2).state_dict()
    for name, fan_in in (("encoder.1.1.conv", 64 * 27), ("decoder.0.blocks.0.conv", 64 * 27), ("decoder.0.up", 32 * 8)):
        expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
        assert state[f"{name}.weight"].std().item() == pytest.approx(expected, rel=0.02)
        assert not state[f"{name}.bias"].any()
    assert (state["encoder.0.0.norm.weight"] == 1).all()


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("family", ["plain_unet", "residual_unet"])
def test_the_forms_for_cpu_and_gpu_agree(family: str, dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks.build(small_spec(family, dimensions), 2, 3)
    with torch.no_grad():
        for seed, parameter in enumerate(network.parameters()):
            parameter += 0.1 * noise(*parameter.shape, seed=seed)
    x = noise(2, 2, *(8, 12, 8)[:dimensions])
    target = noise(2, 3, *(8, 12, 8)[:dimensions], seed=1)

    def outcome() -> list[torch.Tensor]:
        network.zero_grad()
        logits = network(x)
        (logits * target).sum().backward()
        return [
            logits.detach(),
            *(parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None),
        ]

    own = outcome()
    monkeypatch.setattr(operations, "_own_form", lambda x: False)
    for mine, reference in zip(own, outcome(), strict=True):
        # biases before a normalisation have no effect, so their gradients are rounding errors around zero
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(own[0], network(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activate", [True, False])
def test_gradient_of_normalisation(activate: bool) -> None:
    x, residual = noise(2, 3, 2, 4, 3, dtype=torch.float64), noise(2, 3, 2, 4, 3, seed=1, dtype=torch.float64)
    inputs = [x, noise(3, seed=2, dtype=torch.float64), noise(3, seed=3, dtype=torch.float64), residual]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b, r: normalize(x, w, b, activate, r), inputs)
    assert torch.autograd.gradcheck(lambda x, w, b: normalize(x, w, b, activate), inputs[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feature_maps_stay_channels_last(dtype: torch.dtype) -> None:
    network = networks.build(small_spec("residual_unet"), 1, 2)
    layouts = []
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(
                lambda _, __, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last_3d))
            )
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        network(noise(2, 1, 16, 16, 16))
    assert layouts == [True] * 3


def test_bf16_is_close_to_fp32() -> None:
    network = networks.build(small_spec("residual_unet"), 1, 3)
    x = noise(2, 1, 8, 16, 16)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        scales = network.forward_scales(x)
    assert scales[0].dtype == torch.bfloat16
    assert (scales[0].float() - exact).abs().max() < 0.05 * exact.abs().max()
    scales[0].float().square().mean().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


def test_compiled_network_gives_the_same() -> None:
    network = networks.build(small_spec("residual_unet"), 1, 2)
    x = noise(2, 1, 4, 8, 8)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_freed_memory_is_kept_for_the_next_step() -> None:
    def page_faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(16_000_000)  # 64 MB: 15,625 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with freed_memory_kept():
        assert min(page_faults() for _ in range(6)) < 1000


@settings(max_examples=20, deadline=None)
@given(specs(), st.integers(1, 3))
def test_one_sample_alone_is_what_it_is_among_others(spec: NetworkSpec, channels: int) -> None:
    network = networks.build(spec, channels, 2, generator=torch.Generator().manual_seed(0))
    x = noise(2, channels, *(2 * size for size in spec.divisor))
    with torch.inference_mode():
        torch.testing.assert_close(network(x[:1]), network(x)[:1], rtol=1e-4, atol=1e-5)
