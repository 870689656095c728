"""FLAN 2021's protocol (Wei et al. 2021, section 3) as a suite; `flan_jax.eval` is its code, gin/runs/flan2021.gin the same in gin.

Each of the 25 evaluation datasets is asked zero-shot with each of its templates: options ranked by likelihood, or an answer
generated. A dataset's score is the mean over templates with its deviation, and beside it that of the template which is best on
validation rows.
"""

NAME = "flan2021"
TASKS = "flan2021_eval_10templates"
SPLIT, SELECT_ON = "test", "validation"
TARGETS = 256  # tokens of an option or a generated answer (section 2.4)
