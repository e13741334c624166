"""A network as nnU-Net's plans write it: an ``architecture`` entry, or the ``UNet_*`` entries of older plans.

Class names are read as words and compared with the two that are known; nothing is imported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.architecture import Family, NetworkSpec
from medseg.documents import from_json
from medseg.errors import DocumentError
from medseg.interop.nnunet.vocabulary import entry

CLASS_PATH = "dynamic_network_architectures.architectures.unet."
FAMILIES: dict[str, Family] = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_unet"}
CLASSES = {family: name for name, family in FAMILIES.items()}
ENCODER_ENTRY: dict[Family, str] = {"plain_unet": "n_conv_per_stage", "residual_unet": "n_blocks_per_stage"}


def architecture_document(spec: NetworkSpec) -> dict[str, Any]:
    """The ``architecture`` entry of a configuration."""
    return {
        "network_class_name": CLASS_PATH + CLASSES[spec.family],
        "arch_kwargs": {
            "n_stages": spec.stages,
            "features_per_stage": list(spec.features),
            "conv_op": f"torch.nn.modules.conv.Conv{spec.dimensions}d",
            "kernel_sizes": [list(kernel) for kernel in spec.kernel_sizes],
            "strides": [list(stride) for stride in spec.strides],
            ENCODER_ENTRY[spec.family]: list(spec.encoder_blocks),
            "n_conv_per_stage_decoder": list(reversed(spec.decoder_blocks)),
            **_fixed_entries(spec.dimensions),
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def read_network(configuration: Mapping[str, Any], dimensions: int, where: str) -> NetworkSpec:
    """The network of a configuration, in either form.

    Raises:
        DocumentError: an entry is missing or malformed, or the network is of a kind that is not supported.
    """
    if "architecture" in configuration:
        return _read_architecture(configuration["architecture"], dimensions, f"{where}.architecture")
    return _read_older(configuration, dimensions, where)


def _fixed_entries(dimensions: int) -> dict[str, Any]:
    return {
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _read_architecture(architecture: Any, dimensions: int, where: str) -> NetworkSpec:
    family = _family(entry(architecture, "network_class_name", where), where)
    given = entry(architecture, "arch_kwargs", where)
    inside = f"{where}.arch_kwargs"
    stages = from_json(int, entry(given, "n_stages", inside), f"{inside}.n_stages")
    _check_layers(given, family, dimensions, inside)
    return NetworkSpec(
        family=family,
        features=_counts(given, "features_per_stage", stages, inside),
        kernel_sizes=_axes(given, "kernel_sizes", stages, dimensions, inside),
        strides=_axes(given, "strides", stages, dimensions, inside),
        encoder_blocks=_counts(given, ENCODER_ENTRY[family], stages, inside),
        decoder_blocks=_counts(given, "n_conv_per_stage_decoder", stages - 1, inside)[::-1],
    )


def _read_older(configuration: Mapping[str, Any], dimensions: int, where: str) -> NetworkSpec:
    family = _family(entry(configuration, "UNet_class_name", where), where)
    stages = len(from_json(tuple[int, ...], entry(configuration, "n_conv_per_stage_encoder", where), where))
    base = from_json(int, entry(configuration, "UNet_base_num_features", where), f"{where}.UNet_base_num_features")
    most = from_json(int, entry(configuration, "unet_max_num_features", where), f"{where}.unet_max_num_features")
    return NetworkSpec(
        family=family,
        features=tuple(min(base * 2**stage, most) for stage in range(stages)),
        kernel_sizes=_axes(configuration, "conv_kernel_sizes", stages, dimensions, where),
        strides=_axes(configuration, "pool_op_kernel_sizes", stages, dimensions, where),
        encoder_blocks=_counts(configuration, "n_conv_per_stage_encoder", stages, where),
        decoder_blocks=_counts(configuration, "n_conv_per_stage_decoder", stages - 1, where)[::-1],
    )


def _family(class_name: Any, where: str) -> Family:
    name = str(class_name).rpartition(".")[2]
    if name not in FAMILIES:
        raise DocumentError(f"{where}: network class {class_name!r} is not supported, only {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _check_layers(given: Mapping[str, Any], family: Family, dimensions: int, where: str) -> None:
    """Refuse layers that would be built differently here: other norms, dropout, activations, or further options."""
    fixed = {**_fixed_entries(dimensions), "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d"}
    for name, expected in fixed.items():
        found = entry(given, name, where)
        if _last_word(found) != _last_word(expected):
            raise DocumentError(f"{where}: {name} {found!r} is not supported, only {expected!r}")
    counted = {"n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder"}
    further = set(given) - set(fixed) - counted - {ENCODER_ENTRY[family], "deep_supervision"}
    if further:
        raise DocumentError(f"{where}: option {min(further)!r} is not supported; use plans without it")


def _last_word(value: Any) -> Any:
    return value.rpartition(".")[2] if isinstance(value, str) else value


def _counts(document: Mapping[str, Any], name: str, length: int, where: str) -> tuple[int, ...]:
    value = entry(document, name, where)
    if isinstance(value, int):
        return (value,) * length
    counts = from_json(tuple[int, ...], value, f"{where}.{name}")
    return _of_length(counts, length, f"{where}.{name}")


def _axes(
    document: Mapping[str, Any], name: str, stages: int, dimensions: int, where: str
) -> tuple[tuple[int, ...], ...]:
    value = entry(document, name, where)
    rows = [value] * stages if isinstance(value, int) else from_json(tuple[int | tuple[int, ...], ...], value, where)
    whole = tuple((row,) * dimensions if isinstance(row, int) else row for row in rows)
    for row in _of_length(whole, stages, f"{where}.{name}"):
        _of_length(row, dimensions, f"{where}.{name}")
    return whole


def _of_length(values: tuple[Any, ...], length: int, where: str) -> tuple[Any, ...]:
    if len(values) != length:
        raise DocumentError(f"{where}: expected {length} entries, found {len(values)}")
    return values
