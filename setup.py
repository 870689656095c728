"""Installs flan_jax, with tasks/ as flan_jax.tasks and gin/ as package data."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

TEST = ["pytest>=8", "pytest-xdist", "hypothesis", "matplotlib", "openai", "safetensors"]
# The TPU compiler, for tests that compile for a slice; they are skipped where it is not to be had.
TEST += ["jax[tpu]; platform_machine == 'x86_64' and sys_platform == 'linux'"]
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
        "flan_jax.tasks": ["*.yaml", "*.csv", "templates/**/*.yaml"],
        "flan_jax.gin": ["**/*.gin"],
        "flan_jax.data": ["html/*", "sample/**/*.jsonl", "sample/**/*.tsv", "vocabulary/*"],
        "flan_jax.ablation": ["*.yaml"],
        "flan_jax.evaluation": ["*.yaml"],
        "flan_jax.serving": ["html/*"],
    },
    include_package_data=False,
    entry_points={"console_scripts": ["flan = flan_jax.cli:main"]},
    install_requires=[
        "absl-py",
        "array-record>=0.8",
        "etils[epath]",
        "flax>=0.12",
        "gin-config>=0.5",
        "grain>=0.2.18",
        "importlib_resources",  # tensorflow-datasets imports it without declaring it
        "jax>=0.10",
        "jinja2",  # prompts in PromptSource files, in its sandbox
        "msgpack",
        "numpy",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12.8",  # older ones leave no commit marker on local disks
        "PyYAML",
        "rich",
        "rouge-score",
        "sacrebleu",
        "scipy",  # which jax brings
        "sentencepiece>=0.2",
        "seqio>=0.0.19",
        "tensorboard",  # shows what tensorboardX writes; no TensorFlow brings it any more
        "tensorboardX",
        "tensorflow",
        "tensorflow-datasets>=4.9.9",
        "tensorstore",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],  # brings libtpu, which `flan plan` also needs where there is no TPU
        "cuda": ["jax[cuda13]"],
        # Beam holds protobuf below 7. sentencepiece 0.2.3, which seqio imports whole, is generated for 7; beside TensorFlow 0.2.1
        # ends in a segmentation fault.
        "beam": ["apache-beam>=2.70", "sentencepiece==0.2.2"],
        "plot": ["matplotlib"],
        "lm-eval": ["lm-eval>=0.4.9"],
        "test": TEST,
        "parity": PARITY,
        "dev": ["ruff", "pyright", "pre-commit"],
    },
)
