"""A plan in words: each value with its reason, and what differs between two plans."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill

from medseg.planning.plan import Configuration, Decision, Plan
from medseg.planning.wording import configuration_values, plan_values

WIDTH = 100
TITLES = {
    "preset": "Preset",
    "memory_gb": "GPU memory",
    "channels": "Channels",
    "labels": "Labels",
    "orientation": "Orientation",
    "axis_order": "Axis order",
    "median_spacing_mm": "Median spacing",
    "median_shape": "Median scan",
    "configurations": "Configurations",
    "laterality": "Left and right",
    "spacing_mm": "Spacing",
    "patch_size": "Patch",
    "batch_size": "Batch",
    "batch_dice": "Dice loss",
    "normalization": "Intensities",
    "network": "Network",
    "previous_stage": "Previous stage",
}


def explain(plan: Plan) -> str:
    """The plan as prose: first the data, then each configuration, every value with the reason for it."""
    sections = [f"Plan of {plan.dataset_name}", _section("The data", _paragraphs(plan_values(plan), plan.decisions))]
    for configuration in plan.configurations:
        values = configuration_values(configuration)
        model = _model(configuration, plan)
        if model is None:
            paragraphs = _paragraphs(values, configuration.decisions)
        else:
            own = {field: text for field, text in values.items() if field not in configuration_values(model)}
            paragraphs = [f"  All else as in {model.name}.", *_paragraphs(own, configuration.decisions)]
        sections.append(_section(f"Configuration {configuration.name}", paragraphs))
    return "\n\n".join(sections) + "\n"


def compare(plan: Plan, other: Plan) -> str:
    """What differs from one plan to another, with both reasons; one line saying so where nothing does."""
    sections = [("The data", _differences(plan, other, plan_values(plan), plan_values(other)))]
    ours = {configuration.name: configuration for configuration in plan.configurations}
    theirs = {configuration.name: configuration for configuration in other.configurations}
    for name in dict.fromkeys((*ours, *theirs)):
        if name in ours and name in theirs:
            mine, yours = ours[name], theirs[name]
            found = _differences(mine, yours, configuration_values(mine), configuration_values(yours))
        else:
            found = [f"  only in the {'first' if name in ours else 'second'} plan"]
        sections.append((f"Configuration {name}", found))
    differing = [_section(title, paragraphs) for title, paragraphs in sections if paragraphs]
    return "\n\n".join(differing) + "\n" if differing else "The plans agree.\n"


def _model(configuration: Configuration, plan: Plan) -> Configuration | None:
    """The configuration that this one is but for the stage before it, if there is such a one."""
    values = configuration_values(configuration)
    if values.pop("previous_stage", None) is None:
        return None
    return next((other for other in plan.configurations if configuration_values(other) == values), None)


def _section(title: str, paragraphs: Iterable[str]) -> str:
    return "\n".join([title, "-" * len(title), *paragraphs])


def _paragraphs(values: dict[str, str], decisions: tuple[Decision, ...]) -> list[str]:
    return [_paragraph(TITLES[field], text, _reason(field, text, decisions)) for field, text in values.items()]


def _paragraph(title: str, text: str, reason: str) -> str:
    first = fill(f"{title}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    if not reason:
        return first
    sentence = f"{reason[0].upper()}{reason[1:]}."
    return f"{first}\n{fill(sentence, WIDTH, initial_indent='    ', subsequent_indent='    ')}"


def _reason(field: str, text: str, decisions: tuple[Decision, ...]) -> str:
    for decision in decisions:
        if decision.field == field:
            edited = f"changed by hand from {decision.value}, where " if decision.value != text else ""
            return edited + decision.because
    return ""


def _differences(
    first: Plan | Configuration,
    second: Plan | Configuration,
    first_values: dict[str, str],
    second_values: dict[str, str],
) -> list[str]:
    lines = []
    for field in dict.fromkeys((*first_values, *second_values)):
        one, two = first_values.get(field, "none"), second_values.get(field, "none")
        if field != "configurations" and one == two and getattr(first, field) != getattr(second, field):
            one, two = str(getattr(first, field)), str(getattr(second, field))
        if one != two:
            lines.append(_paragraph(f"{TITLES[field]} (first plan)", one, _reason_of(first, field)))
            lines.append(_paragraph(f"{TITLES[field]} (second plan)", two, _reason_of(second, field)))
    return lines


def _reason_of(thing: Plan | Configuration, field: str) -> str:
    values = plan_values(thing) if isinstance(thing, Plan) else configuration_values(thing)
    return _reason(field, values.get(field, "none"), thing.decisions)
