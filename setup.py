"""Installs flan_jax, with tasks/ as flan_jax.tasks and gin/ as package data."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

TEST = ["pytest>=8", "pytest-xdist", "hypothesis", "matplotlib"]
# torch and transformers are peers to compare with, never needed at run time.
PARITY = ["torch", "transformers"]

setup(
    name="flan_jax",
    version="0.1.0",
    description="Instruction tuning in JAX: FLAN, Flan-T5 and OPT-IML, from a laptop to a TPU pod.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["flan_jax", "flan_jax.*"]), "flan_jax.tasks", "flan_jax.gin"],
    # gin/ must not be a package of its own (it would shadow gin-config), so it has no __init__.py and is installed inside.
    package_dir={"flan_jax.tasks": "tasks", "flan_jax.gin": "gin"},
    package_data={
        "flan_jax.tasks": ["*.yaml", "*.csv", "templates/*.yaml"],
        "flan_jax.gin": ["**/*.gin"],
        "flan_jax.data": ["html/*", "sample/**/*.jsonl", "vocabulary/*"],
    },
    include_package_data=False,
    entry_points={"console_scripts": ["flan = flan_jax.cli:main"]},
    install_requires=[
        "absl-py",
        "etils[epath]",
        "flax>=0.12",
        "gin-config>=0.5",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "jax>=0.10",
        "numpy",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.8",  # older ones leave no commit marker on local disks
        "PyYAML",
        "rich",
        "rouge-score",
        "sacrebleu",
        "sentencepiece>=0.2",
        "seqio>=0.0.19",
        "tensorboardX",
        "tensorflow",
        "tensorflow-datasets>=4.9.9",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "plot": ["matplotlib"],
        "test": TEST,
        "parity": PARITY,
        "dev": ["ruff", "pyright", "pre-commit"],
    },
)
