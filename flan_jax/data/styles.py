"""The ways in which a dataset can be asked: one table from the last part of a task's name to a `Style`.

Names are FLAN's public ones where there is one. Of FLAN 2021, with T the dataset, n in 1, 2, 4, 7, 10, i a template and
K one of `one`, `two`, `three`, `five`, `ten` and `multi` (up to 16 exemplars):

    T_{n}templates[_K_shot], T_all_prompts     templates drawn per row, for training
    T_type_{i}[_K_shot]                        template i alone; the answer is generated
    T_type_{i}_scoring_eval[_K_shot]           rank classification over the OPTIONS that the inputs show
    T_type_{i}_score_eval_no_options[_K_shot]  the same without showing them (`_score_flan_no_options` is the same)

Of the Flan Collection (2022):

    T_template_0to10_zero_shot, T_template_0to10_no_opt_zero_shot
    T_template_0to10_non_deter_opt_zero_shot                      options laid out anew for every example (`mark`)
    T_template_0to10_x_shot, T_template_0to10_no_opt_x_shot       of 25 exemplars drawn, those in the query's template
    T_template_mix_five_shot, T_template_mix_no_opt_five_shot     each exemplar in a template of its own
    T_template_0_zero_shot                                        the first template alone
    T_template_{0,1,2}[_no_opt]_{five,two,one}_shot               template 0 with 5 exemplars, 1 with 2, 2 with 1

What stands around the exemplars of these is drawn for every example (`delimiters`). flan_jax's own are

    T_template_0to10[_no_opt]_positive_shot                       up to two of the examples that were written for the task
    T_opt_iml_zero_shot                                           one of OPT-IML's delimiters after the instruction

FLAN's `continuations_T_...`, prompts in GPT-3's style for models without instruction tuning, have no counterpart.

Where targets reason before they answer, each template exists with and without a phrase that asks for it ("Let's think step
by step."). The names above are without it, but for `T_template_0to10...` and `T_template_mix...`, which draw either. With it:

    T_{n}templates_trigger[_K_shot], T_type_{i}_trigger[_K_shot]

And such datasets have inverted forms, which ask for the rationale, the question or both. The Flan Collection has them as
datasets of their own (`task_table` knows those names, too):

    T_input_inversion_template_0to10_zero_shot, T_input_inversion_type_{i}
    T_input_inversion_template_0to10_x_shot, T_input_inversion_template_mix_five_shot

And flan_jax's own names for the baselines of the instruction ablation (FLAN 2021, section 4.2):

    T_no_template[_scoring_eval]     nothing but the fields and the answer
    T_dataset_name[_scoring_eval]    the same behind `[nli: rte]`
"""

import dataclasses
import functools
import string

from flan_jax.data import delimiters as delimiters_lib
from flan_jax.data import spec, stateless

TEMPLATE_COUNTS = (1, 2, 4, 7, 10)
SHOTS = {"one_shot": 1, "two_shot": 2, "three_shot": 3, "five_shot": 5, "ten_shot": 10, "multi_shot": 16}

# What the inputs of an example are worded with.
TEMPLATES, NOTHING, NAME = "templates", "nothing", "name"
# How exemplars are worded: in the query's template; each in one of its own; or in the query's, and only as many as
# have it among `shots` drawn ones.
SAME, OWN, MATCHING = "same", "own", "matching"

# What the names of inverted forms have before the rest.
INVERSION = "input_inversion_"
# The Flan Collection's few-shot tasks of one template.
SINGLE = {0: "five_shot", 1: "two_shot", 2: "one_shot"}
# How the Flan Collection lays out options where that varies: a header, marks, and what ends an option. Its code has 16
# headers, 63 marks (23 of them the same for every option) and these three ends; the words here are flan_jax's.
HEADERS = (
    *("OPTIONS:", "Options:", "CHOICES:", "Choices:", "Possible answers:", "Answer choices:", "Choose one of these:"),
    *("Pick the answer from:", "Select one:", "The answer is one of:", "Candidates:", "One of the following:"),
    *("Available answers:", "Which of these?", "Choose from:", ""),
)
BULLETS = ("- ", "* ", "+ ", "> ", "-- ", "-> ", "=> ", "~ ", "# ", "\u2022 ")
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII")
_ROMAN = (*_ROMAN, *(f"X{one}" for one in _ROMAN[3:9]), "XX", *(f"XX{one}" for one in _ROMAN[:6]))
NUMBERINGS = (
    *(string.ascii_uppercase, string.ascii_lowercase, tuple(map(str, range(1, 27)))),
    *(_ROMAN, tuple(map(str.lower, _ROMAN))),
)
SHAPES = ("({}) ", "{}) ", "{}. ", "[{}] ", "{}: ")
LEADS, ENDS = ("\n", " "), ("", ";", ".")
MOST_MARKED = 26  # options; more of them get bullets
_SALT_MARK = 31
POSITIVE_SHOTS = 2  # Natural Instructions' own models are given two
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
      marked: whether options are laid out in a way that each example draws (`mark`).
      delimiters: the table that each example draws what stands around it from; empty for FLAN 2021's.
      positive: whether exemplars are those written for the task, not rows of the train split.
    """

    templates: tuple[int, ...]
    options: bool = True
    scoring: bool = False
    wording: str = TEMPLATES
    shots: int = 0
    exemplars: str = SAME
    budget: int = BUDGET_2021
    marked: bool = False
    delimiters: str = ""
    positive: bool = False


@functools.cache
def table(
    num_templates: int = 10,
    options: bool = True,
    exemplars: bool = True,
    triggers: bool = False,
    inverted: int = 0,
    positive: bool = False,
) -> dict[str, Style]:
    """The table of styles of a dataset: last part of the task's name -> style.

    Args:
      num_templates: templates that the dataset has in its own file.
      options: whether any of them shows options, so that rank classification applies.
      exemplars: whether it has a train split to draw exemplars from.
      triggers: whether each of them is there a second time, with a phrase that asks for the reasoning.
      inverted: how many inverted forms follow (see `templates.of` for the order of indices).
      positive: whether examples were written for the task, which can be exemplars.
    """
    every = tuple(range(num_templates))
    found = {f"{n}templates": Style(every[:n]) for n in TEMPLATE_COUNTS if n <= num_templates}
    if triggers:
        prompted = tuple(num_templates + i for i in every)
        found |= {f"{n}templates_trigger": Style(prompted[:n]) for n in TEMPLATE_COUNTS if n <= num_templates}
        found |= {f"type_{i}_trigger": Style((prompted[i],)) for i in every}
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
        ten = tuple(range(10))
        found |= _collection((*ten, *(num_templates + i for i in ten)) if triggers else ten, options, exemplars)
        found["opt_iml_zero_shot"] = Style(ten, budget=BUDGET_2022, delimiters=delimiters_lib.OPT_IML)
        if positive:
            style = Style(
                ten, budget=BUDGET_2022, shots=POSITIVE_SHOTS, positive=True, delimiters=delimiters_lib.FLAN_2022
            )
            found["template_0to10_positive_shot"] = style
            found["template_0to10_no_opt_positive_shot"] = dataclasses.replace(style, options=False)
    if inverted:
        start = len(every) * (2 if triggers else 1)
        forms = tuple(range(start, start + inverted))
        found |= {f"{INVERSION}type_{i}": Style((form,), budget=BUDGET_2022) for i, form in enumerate(forms)}
        found |= {f"{INVERSION}{name}": style for name, style in _drawn(forms, "", True, exemplars).items()}
    return found


def _collection(templates: tuple[int, ...], has_options: bool, exemplars: bool) -> dict[str, Style]:
    """The Flan Collection's names."""
    found = {"template_0_zero_shot": Style((0,), budget=BUDGET_2022)}
    if has_options:
        found["template_0to10_non_deter_opt_zero_shot"] = Style(templates, budget=BUDGET_2022, marked=True)
    for no_opt, options in (("", True), ("_no_opt", False)):
        found |= _drawn(templates, no_opt, options, exemplars)
        if exemplars:
            single = Style((), options=options, budget=BUDGET_2022, delimiters=delimiters_lib.FLAN_2022)
            found |= {
                f"template_{i}{no_opt}_{shot}": dataclasses.replace(single, templates=(i,), shots=SHOTS[shot])
                for i, shot in SINGLE.items()
            }
    return found


def _drawn(templates: tuple[int, ...], no_opt: str, options: bool, exemplars: bool) -> dict[str, Style]:
    """The Flan Collection's names for templates that are drawn per row."""
    style = Style(templates, options=options, budget=BUDGET_2022)
    found = {f"template_0to10{no_opt}_zero_shot": style}
    if exemplars:
        # 25 draws of ten templates: 2.5 exemplars on average; the same where each is there twice.
        shots = 25 * max(1, len(templates) // 10)
        drawn = dataclasses.replace(style, delimiters=delimiters_lib.FLAN_2022)
        found[f"template_0to10{no_opt}_x_shot"] = dataclasses.replace(drawn, shots=shots, exemplars=MATCHING)
        found[f"template_mix{no_opt}_five_shot"] = dataclasses.replace(drawn, shots=5, exemplars=OWN)
    return found


def evaluation(style: Style, template: int, scored: bool, num_templates: int = 10) -> str:
    """The name of the style that evaluates one template of another style.

    Args:
      style: what a model is trained or asked with.
      template: one of its templates.
      scored: whether the dataset is scored by rank classification.
      num_templates: templates that the dataset has in its own file; those from there on have the phrase.

    Returns:
      E.g. `type_3_scoring_eval_five_shot`. What draws up to 25 exemplars is evaluated with five.
    """
    if style.wording != TEMPLATES:
        name = "no_template" if style.wording == NOTHING else "dataset_name"
        return f"{name}_scoring_eval" if scored else name
    kind = "" if not scored else "_scoring_eval" if style.options else "_score_eval_no_options"
    if template >= num_templates:
        template, kind = template - num_templates, "_trigger"
    shots = {count: f"_{name}" for name, count in SHOTS.items()}
    return f"type_{template}{kind}{shots.get(style.shots, '_five_shot') if style.shots else ''}"


def mark(example: spec.Example, template: int) -> tuple[str, spec.Example]:
    """Lays out the options of an example in one of the Flan Collection's ways; its content and the template draw which.

    Where marks tell the options apart, the answer becomes its mark: `(B)`.

    Args:
      example: has options.
      template: index of the template that shows them.

    Returns:
      The block that stands for `{options}`, and the example with the answer that goes with it.
    """
    content = stateless.name_key("\n".join((*example.fields.values(), *example.options)))

    def draw(number: int, of: int) -> int:
        return int(stateless.below(of, _SALT_MARK, content, template, number))

    count = len(example.options)
    kind = draw(0, len(BULLETS) + len(NUMBERINGS) * len(SHAPES))
    told_apart = kind >= len(BULLETS) and count <= MOST_MARKED
    if told_apart:
        numbering, shape = divmod(kind - len(BULLETS), len(SHAPES))
        marks = [SHAPES[shape].format(symbol) for symbol in NUMBERINGS[numbering][:count]]
    else:
        marks = [BULLETS[kind % len(BULLETS)]] * count
    header, lead, end = HEADERS[draw(1, len(HEADERS))], LEADS[draw(2, len(LEADS))], ENDS[draw(3, len(ENDS))]
    # "feared violence.." and "was rising.;" are nobody's spelling: a sentence has its own end.
    ends = ("" if option.endswith((".", "!", "?")) else end for option in example.options)
    listed = (f"{lead}{mark}{option}{end}" for mark, option, end in zip(marks, example.options, ends, strict=True))
    block = (header + "".join(listed)).strip()
    if told_apart and example.answer in example.options:
        answer = marks[example.options.index(example.answer)].strip()
        right = [m.strip() for m, option in zip(marks, example.options, strict=True) if option in example.answers]
        example = dataclasses.replace(example, answer=answer, answers=tuple(right) or (answer,))
    return block, example
