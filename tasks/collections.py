"""The mixtures of Flan 2022, of the Flan Collection's ablations and of OPT-IML, as one table: collections in proportions.

Sources, as the comments name them:

    [F22]  Scaling Instruction-Finetuned Language Models, arXiv 2210.11416v5
    [FC]   The Flan Collection, arXiv 2301.13688
    [v2]   the public code of both, google-research/FLAN, flan/v2
    [OIML] OPT-IML, arXiv 2212.12017v1

`flan mixture NAME` prints what a blend comes to. One of your own is a module of this form: a tuple `BLENDS`, beside `SPECS` and
`COLLECTIONS` of `flan_jax.tasks.catalogue`, which `MIXTURE_OR_TASK_MODULE` may name together with it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from flan_jax.data import spec

# How collections are asked. Zero-shot and few-shot are equal, and so are options shown and not shown where both are there;
# rationales, Natural Instructions and dialogue are asked in one way [v2, mixtures.py and run_example.py].
ASKED: Mapping[str, Mapping[str, float]] = {
    "muffin": {spec.ZSOPT: 1, spec.ZSNOOPT: 1, spec.FSOPT: 1, spec.FSNOOPT: 1},
    "flan": {spec.ZSOPT: 1, spec.ZSNOOPT: 1, spec.FSOPT: 1, spec.FSNOOPT: 1},
    "t0": {spec.ZSOPT: 1, spec.ZSNOOPT: 1, spec.FSOPT: 1, spec.FSNOOPT: 1},
    # [v2]'s template of Natural Instructions shows no options: definitions say what there is to choose from.
    "niv2": {spec.ZSNOOPT: 1, spec.FSNOOPT: 1},
    "niv2_train": {spec.ZSNOOPT: 1, spec.FSNOOPT: 1},
    "cot": {spec.ZSOPT: 1, spec.FSOPT: 1},
    "dialog": {spec.ZSOPT: 1, spec.FSOPT: 1},
    "program_synthesis": {spec.ZSOPT: 1, spec.FSOPT: 1},
}
# A, of the scaling study and the ablations; B, of the released models, Flan-T5 among them [F22, table 23, in percent].
A = {"muffin": 52.0, "t0": 15.0, "cot": 3.0, "niv2": 30.0}
B = {"muffin": 46.0, "t0": 27.9, "cot": 1.8, "niv2": 24.2}
# What the public release mixes instead: FLAN 2021's tasks and dialogue apart [v2, run_example.py].
PUBLIC = {"flan": 40.0, "t0": 32.0, "niv2": 20.0, "cot": 5.0, "dialog": 3.0}
# By the number of tasks [F22, figure 4 and table 3]: mixtures are added in this order, 9 + 80 + 193 + 400 + 1,154 tasks. Which
# 400 of NIV2 make the 682 is not published.
SCALING: Mapping[int, tuple[Mapping[str, int | None], str]] = {
    9: ({"cot": None}, "CoT"),
    89: ({"cot": None, "muffin": None}, "CoT, Muffin"),
    282: ({"cot": None, "muffin": None, "t0": None}, "CoT, Muffin, T0-SF"),
    682: ({"cot": None, "muffin": None, "t0": None, "niv2": 400}, "CoT, Muffin, T0-SF, 400 tasks of NIV2"),
    1836: ({"cot": None, "muffin": None, "t0": None, "niv2": None}, "CoT, Muffin, T0-SF, NIV2"),
}
# Percent of few-shot templates [FC, figure 3].
FEW_SHOT = (0, 5, 10, 25, 50, 75, 90, 95, 100)
INVERTED = ("*_input_inversion_*", "*_input_inversion")


def _parts(shares: Mapping[str, float], datasets: Mapping[str, int | None] | None = None) -> tuple[spec.Part, ...]:
    return tuple(
        spec.Part(name, share, kinds=ASKED[name], datasets=(datasets or {}).get(name)) for name, share in shares.items()
    )


def _few_shot(part: spec.Part, percent: int) -> spec.Part:
    """The same part with so many percent of its draws few-shot."""
    few = {kind for kind in part.kinds if kind in (spec.FSOPT, spec.FSNOOPT)}
    kinds = {
        kind: (percent / len(few) if kind in few else (100 - percent) / (len(part.kinds) - len(few)))
        for kind in part.kinds
    }
    return dataclasses.replace(part, kinds=kinds)


def _but(parts: Iterable[spec.Part], collection: str) -> tuple[spec.Part, ...]:
    return tuple(part for part in parts if part.collection != collection)


def _flan2022() -> Iterable[spec.Blend]:
    released, public = _parts(B), _parts(PUBLIC)
    yield spec.Blend("flan2022", released, about="Proportion B: Flan-T5 and the other released models")
    yield spec.Blend("flan2022_b", released, about="the same")
    yield spec.Blend("flan2022_a", _parts(A), about="Proportion A: the scaling study and the ablations")
    yield spec.Blend("flan2022_submix", public, about="the public release's proportions, under its name")
    # Natural Instructions' own test tasks kept out of training, which neither paper does.
    apart = {"niv2_train" if name == "niv2" else name: share for name, share in B.items()}
    yield spec.Blend("flan2022_niv2_train", _parts(apart), about="B without Natural Instructions' test tasks")
    for count, (taken, about) in SCALING.items():
        shares = {name: share for name, share in A.items() if name in taken}
        yield spec.Blend(f"flan2022_{count}_tasks", _parts(shares, taken), about=f"scaling: {about}")
    # [F22, figure 5], and one source left out at a time [FC, table 2]; the others keep their ratios.
    yield spec.Blend("flan2022_cot_only", _parts({"cot": 1.0}), about="rationales only")
    yield spec.Blend("flan2022_noncot_only", _but(_parts(A), "cot"), about="Proportion A without rationales")
    for name in B:
        yield spec.Blend(f"flan2022_minus_{name}", _but(released, name), about=f"B without {name}")
    for name in PUBLIC:
        yield spec.Blend(f"flan2022_submix_minus_{name}", _but(public, name), about=f"the release without {name}")
    # [FC, table 1]: what the design decisions are worth.
    equal = tuple(dataclasses.replace(part, share=1.0) for part in public)
    yield spec.Blend("flan2022_submix_equal", equal, about="no mixture balancing")
    forward = tuple(dataclasses.replace(part, without=INVERTED) for part in public)
    yield spec.Blend("flan2022_submix_minus_inversion", forward, about="no input inversion")
    zero_shot = tuple(_few_shot(part, 0) for part in public)
    yield spec.Blend("flan2022_submix_minus_few_shot", zero_shot, about="no few-shot templates")
    for name in PUBLIC:  # [FC, table 2] leaves sources out of equal shares
        yield spec.Blend(f"flan2022_submix_equal_minus_{name}", _but(equal, name), about=f"equal shares without {name}")
    for percent in FEW_SHOT:
        mixed = tuple(_few_shot(part, percent) for part in released)
        yield spec.Blend(f"flan2022_fewshot_{percent}", mixed, about=f"B, {percent}% of it few-shot")


# OPT-IML Bench: the seven benchmarks whose proportions its table 5 varies, in its order, and what stands for them here.
BENCHMARKS = ("crossfit", "exmix", "flan", "niv2", "promptsource", "t5", "unifiedskg")
# [OIML, table 5]: the ten rows, in its order; the first is what examples-proportional sampling gives by itself.
PROPORTIONS = (
    *((2, 1, 5, 71, 18, 1, 2), (2, 1, 35, 25, 34, 1, 2), (3, 3, 35, 25, 25, 7, 2), (2, 1, 27, 40, 27, 1, 2)),
    *((3, 3, 25, 25, 35, 7, 2), (4, 2, 35, 25, 30, 2, 2), (4, 2, 20, 25, 45, 2, 2), (2, 1, 35, 25, 30, 5, 2)),
    *((7, 1, 35, 25, 28, 2, 2), (0, 0, 35, 30, 35, 0, 0)),
)
CHOSEN = (4, 2, 20, 25, 45, 2, 2)  # [OIML, section 4.2]
EPS = 4096  # chosen; "max examples per task" past which a task weighs no more [OIML, table 4]
EPS_TRIED = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
NO_EPS = 1_000_000  # the table's last row, "1e6", is no limit
REASONING, PRETRAINING = 1.0, 5.0  # percent of the final recipe [OIML, section 4.3]
REASONING_TRIED = (1, 2, 4)  # [OIML, table 19]
PRETRAINING_TRIED = (1, 5, 10, 50)  # [OIML, table 18]
# Rows of a task; FLAN's 30,000 hold in its own collection [OIML, section 2.2].
OPT_IML_CAP, OPT_IML_CAPS = 100_000, {"flan": 30_000}
_STYLE = "opt_iml_zero_shot"


def _opt_iml(
    name: str,
    about: str,
    shares: Sequence[float] = CHOSEN,
    *,
    eps: int = EPS,
    reasoning: float = 0,
    pretraining: float = 0,
) -> spec.Blend:
    rest = (100 - reasoning - pretraining) / sum(shares)
    parts = [
        spec.Part(benchmark, share * rest, maximum=eps, style=_STYLE, cap=OPT_IML_CAPS.get(benchmark))
        for benchmark, share in zip(BENCHMARKS, shares, strict=True)
    ]
    if reasoning:
        parts.append(spec.Part("cot", reasoning, maximum=eps, style=_STYLE))
    if pretraining:
        parts.append(spec.Part("pretraining", pretraining, style="lm"))
    return spec.Blend(name, tuple(parts), cap=OPT_IML_CAP, about=about)


def _opt_iml_blends() -> Iterable[spec.Blend]:
    about = "the final recipe: 1% reasoning, 5% pre-training data"
    yield _opt_iml("opt_iml", about, reasoning=REASONING, pretraining=PRETRAINING)
    yield _opt_iml("opt_iml_base", "the chosen proportions alone, from which its ablations start")
    for eps in EPS_TRIED:
        yield _opt_iml(f"opt_iml_eps_{eps}", f"a task weighs {eps:,} examples at most", eps=eps)
    yield _opt_iml("opt_iml_eps_none", "no limit to what a task weighs", eps=NO_EPS)
    for number, shares in enumerate(PROPORTIONS, start=1):
        yield _opt_iml(f"opt_iml_proportions_{number}", "/".join(map(str, shares)), shares)
    for percent in REASONING_TRIED:
        yield _opt_iml(f"opt_iml_reasoning_{percent}", f"{percent}% reasoning", reasoning=percent)
    for percent in PRETRAINING_TRIED:
        yield _opt_iml(f"opt_iml_pretraining_{percent}", f"{percent}% pre-training data", pretraining=percent)


BLENDS: tuple[spec.Blend, ...] = (*_flan2022(), *_opt_iml_blends())

# Benchmarks of OPT-IML that nobody has written as datasets of flan_jax: their shares go to the others.
_ABSENT = "no datasets of flan_jax; a module of yours may define a `Collection` of this name"
COLLECTIONS: tuple[spec.Collection, ...] = (
    spec.Collection("crossfit", {}, published=159, about=_ABSENT),
    spec.Collection("exmix", {}, published=14, about=_ABSENT),
    spec.Collection("t5", {}, published=36, about=_ABSENT),
    spec.Collection("unifiedskg", {}, published=21, about=_ABSENT),
)
