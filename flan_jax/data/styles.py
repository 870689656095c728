"""The ways in which a dataset can be asked: one table from the last part of a task's name to a `Style`.

Names are FLAN's public ones where there is one. Of FLAN 2021, with T the dataset, n in 1, 2, 4, 7, 10, i a template and
K one of `one`, `two`, `three`, `five`, `ten` and `multi` (up to 16 exemplars):

    T_{n}templates[_K_shot], T_all_prompts     templates drawn per row, for training
    T_type_{i}[_K_shot]                        template i alone; the answer is generated
    T_type_{i}_scoring_eval[_K_shot]           rank classification over the OPTIONS that the inputs show
    T_type_{i}_score_eval_no_options[_K_shot]  the same without showing them (`_score_flan_no_options` is the same)

Of the Flan Collection (2022):

    T_template_0to10_zero_shot, T_template_0to10_no_opt_zero_shot
    T_template_0to10_x_shot, T_template_0to10_no_opt_x_shot       of 25 exemplars drawn, those in the query's template
    T_template_mix_five_shot, T_template_mix_no_opt_five_shot     each exemplar in a template of its own

And flan_jax's own names for the baselines of the instruction ablation (FLAN 2021, section 4.2):

    T_no_template[_scoring_eval]     nothing but the fields and the answer
    T_dataset_name[_scoring_eval]    the same behind `[nli: rte]`
"""

import dataclasses
import functools

TEMPLATE_COUNTS = (1, 2, 4, 7, 10)
SHOTS = {"one_shot": 1, "two_shot": 2, "three_shot": 3, "five_shot": 5, "ten_shot": 10, "multi_shot": 16}

# What the inputs of an example are worded with.
TEMPLATES, NOTHING, NAME = "templates", "nothing", "name"
# How exemplars are worded: in the query's template; each in one of its own; or in the query's, and only as many as
# have it among `shots` drawn ones.
SAME, OWN, MATCHING = "same", "own", "matching"

BUDGET_2021, BUDGET_2022 = 960, 1920  # tokens of query and exemplars, of 1024 and 2048


@dataclasses.dataclass(frozen=True)
class Style:
    """How the rows of a dataset are asked for.

    Attributes:
      templates: indices into the dataset's template file.
      options: whether the inputs show the options.
      scoring: whether an answer is chosen by the likelihood of each option rather than generated.
      wording: `TEMPLATES`, `NOTHING` or `NAME`.
      shots: exemplars before the query, at most.
      exemplars: `SAME`, `OWN` or `MATCHING`.
      budget: tokens that the query and its exemplars take together, at most (see `fewshot`).
    """

    templates: tuple[int, ...]
    options: bool = True
    scoring: bool = False
    wording: str = TEMPLATES
    shots: int = 0
    exemplars: str = SAME
    budget: int = BUDGET_2021


@functools.cache
def table(num_templates: int = 10, options: bool = True, exemplars: bool = True) -> dict[str, Style]:
    """The table of styles of a dataset: last part of the task's name -> style.

    Args:
      num_templates: templates that the dataset has.
      options: whether any of them shows options, so that rank classification applies.
      exemplars: whether it has a train split to draw exemplars from.
    """
    every = tuple(range(num_templates))
    found = {f"{n}templates": Style(every[:n]) for n in TEMPLATE_COUNTS if n <= num_templates}
    for i in every:
        found[f"type_{i}"] = Style((i,))
        if options:
            found[f"type_{i}_scoring_eval"] = Style((i,), scoring=True)
            found[f"type_{i}_score_eval_no_options"] = Style((i,), options=False, scoring=True)
    if exemplars:
        zero_shot = list(found.items())
        found |= {
            f"{name}_{shot}": dataclasses.replace(style, shots=count)
            for name, style in zero_shot
            for shot, count in SHOTS.items()
        }
    found["all_prompts"] = Style(every)
    for name, wording in (("no_template", NOTHING), ("dataset_name", NAME)):
        found[name] = Style((0,), options=False, wording=wording)
        if options:
            found[f"{name}_scoring_eval"] = Style((0,), options=False, scoring=True, wording=wording)
    if options:
        found |= {f"type_{i}_score_flan_no_options": Style((i,), options=False, scoring=True) for i in every}
    if num_templates >= 10:
        found |= _collection(exemplars)
    return found


def _collection(exemplars: bool) -> dict[str, Style]:
    """The Flan Collection's names, but for `non_deter_opt`, which varies the marks of the options."""
    found = {}
    for no_opt, options in (("", True), ("_no_opt", False)):
        ten = Style(tuple(range(10)), options=options, budget=BUDGET_2022)
        found[f"template_0to10{no_opt}_zero_shot"] = ten
        if exemplars:
            found[f"template_0to10{no_opt}_x_shot"] = dataclasses.replace(ten, shots=25, exemplars=MATCHING)
            found[f"template_mix{no_opt}_five_shot"] = dataclasses.replace(ten, shots=5, exemplars=OWN)
    return found


def evaluation(style: Style, template: int, scored: bool) -> str:
    """The name of the style that evaluates one template of another style.

    Args:
      style: what a model is trained or asked with.
      template: one of its templates.
      scored: whether the dataset is scored by rank classification.

    Returns:
      E.g. `type_3_scoring_eval_five_shot`. What draws up to 25 exemplars is evaluated with five.
    """
    if style.wording != TEMPLATES:
        name = "no_template" if style.wording == NOTHING else "dataset_name"
        return f"{name}_scoring_eval" if scored else name
    kind = "" if not scored else "_scoring_eval" if style.options else "_score_eval_no_options"
    shots = {count: f"_{name}" for name, count in SHOTS.items()}
    return f"type_{template}{kind}{shots.get(style.shots, '_five_shot') if style.shots else ''}"
