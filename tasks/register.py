"""Importing this module puts flan_jax's tasks and mixtures into seqio's registries, as other seqio clients expect.

For t5x: `MIXTURE_OR_TASK_MODULE = 'flan_jax.tasks.register'`. flan_jax's own trainer does not need it.
"""

from flan_jax.data import seqio_registry

seqio_registry.register("flan_jax.tasks.catalogue")
