"""Instruction tuning in JAX: the data, models, trainer and evaluation of FLAN (2021), Flan-T5 and OPT-IML."""

__version__ = "0.1.0"
