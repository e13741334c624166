"""How to predict, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.engines import require_engine
from medseg.errors import UsageError


@dataclass(frozen=True)
class PredictionSettings:
    """How to predict.

    Attributes:
        mirror: average over mirrored copies along the axes that the model allows.
        step: distance of neighbouring windows as part of the patch, in (0, 1].
        max_ram_bytes: memory of this process not to exceed; a scan that needs more is refused before it is read.
        max_vram_bytes: the same of a GPU's memory.
        engine: what computes the networks; ``auto`` takes the fastest that is installed.

    Raises:
        UsageError: a step that leaves gaps or goes nowhere, or an engine that is unknown or not installed.
    """

    mirror: bool = True
    step: float = 0.5
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise UsageError(f"--step {self.step}: expected a number above 0 and at most 1, such as 0.5")
        require_engine(self.engine)


DEFAULT_SETTINGS = PredictionSettings()
