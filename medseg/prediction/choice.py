"""Which models a workspace predicts with, and what is done to their masks: as ``medseg best`` chose, if it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg.errors import UsageError
from medseg.postprocessing import BEST_FILE, BestDocument, Step
from medseg.workspace import Workspace


@dataclass(frozen=True)
class Choice:
    """Model folders whose probabilities are averaged, and steps after prediction.

    Attributes:
        followed: the ``best.json`` that says so, if one does.
    """

    models: tuple[Path, ...]
    steps: tuple[Step, ...] = ()
    followed: Path | None = None

    def __str__(self) -> str:
        models = " + ".join(model.name for model in self.models)
        return f"{models}, then {', '.join(map(str, self.steps))}" if self.steps else models


def choice_of(workspace: Workspace, configuration: str | None = None) -> Choice:
    """The model of a configuration; if none is named, what ``best.json`` says, else the default configuration.

    Raises:
        DocumentError: ``best.json`` does not parse.
        UsageError: it names a configuration that the plan no longer has.
    """
    path = workspace.root / BEST_FILE
    if configuration is not None or not path.is_file():
        return Choice((workspace.model_folder(workspace.plan.configuration(configuration).name),))
    best = BestDocument.load(path)
    planned = [planned.name for planned in workspace.plan.configurations]
    gone = [name for name in best.configurations if name not in planned]
    if gone:
        raise UsageError(
            f"{path} chooses {', '.join(gone)}, the plan has {', '.join(planned)}; choose again with: medseg best -w"
            f" {workspace.root}, or name one with -c"
        )
    return Choice(tuple(map(workspace.model_folder, best.configurations)), best.steps, path)
