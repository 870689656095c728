"""One answer out of several samples for questions that have no right answer (Flan 2022, section 6)."""

import statistics
from collections.abc import Sequence

from flan_jax import errors

# How the paper samples.
SAMPLES, TEMPERATURE = 5, 0.7


def select(log_probs: Sequence[float]) -> int:
    """Picks the likeliest sample that is not too likely: those better than half the median are dropped.

    A text that is far likelier than the others is mostly very short or repeats itself. Log-probabilities are sums, not divided by
    length: of -20, -30, -3, -25 and -18 the median is -20; -3 is better than -10 and dropped; -18 is taken.

    `select([-20, -30, -3, -25, -18]) == 4`.

    Args:
      log_probs: of each sample, at most 0.

    Returns:
      Its number; of equal ones the first.

    Raises:
      FlanError: there are no samples.
    """
    if not log_probs:
        raise errors.FlanError("no samples to select from; expected at least one")
    # The median itself is never better than its half, so that something is left.
    limit = 0.5 * statistics.median(log_probs)
    kept = [number for number, value in enumerate(log_probs) if value <= limit]
    return max(kept, key=lambda number: log_probs[number])
