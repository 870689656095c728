"""Our checkpoints as a model of EleutherAI's lm-evaluation-harness (extra `lm-eval`), under the name `flan_jax`.

    python -m flan_jax.evaluation.lm_eval_adapter run --model flan_jax --model_args checkpoint=runs/demo --tasks hellaswag

or, in Python, `import flan_jax.evaluation.lm_eval_adapter` before `lm_eval.simple_evaluate(model="flan_jax", ...)`. Nothing else
imports this module, and importing it registers the name.

A context is the input of a model and a continuation its target, each tokenised by itself and ended by the end token, as in
instruction tuning; log-likelihoods are those of rank classification, the end token included (`end_token=False` leaves it out, as the
harness's own models do). Blanks between the two are dropped, as neither is glued to the other. A context that is too long loses its
beginning.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from flan_jax import errors, host_memory
from flan_jax.inference import generate, saved, score, settings
from flan_jax.models import api

logger = logging.getLogger(__name__)

MAX_TOKENS = 256  # of a generated answer where a task does not say, as in the harness's own models
_BATCH = 8
_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")


@register_model("flan_jax")
class FlanJax(LM):
    """A run's model, asked by the harness."""

    def __init__(
        self,
        checkpoint: str = "",
        *,
        batch_size: int | str = _BATCH,
        inputs: int | None = None,
        num_partitions: int = 1,
        base: str | None = None,
        end_token: bool = True,
        seed: int = 0,
        generator: generate.Generator | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Args:
          checkpoint: a run's MODEL_DIR, or a checkpoint in it.
          batch_size: prompts a step; `auto` is 8.
          inputs: tokens of a context at most; as in training where None.
          num_partitions: devices that share one copy of the model.
          base: of an adapter's checkpoint, its base, if that has moved.
          end_token: whether the end of a continuation is scored with it.
          seed: of samples.
          generator: a model that is open already, instead of a checkpoint.
          max_batch_size: the harness gives it; not needed.
          device: likewise; JAX has chosen.

        Raises:
          FlanError: nothing is there, or the model cannot be made of it.
        """
        super().__init__()
        del max_batch_size, device
        if generator is None:
            if not checkpoint:
                raise errors.FlanError("no checkpoint; expected --model_args checkpoint=MODEL_DIR")
            host_memory.keep_freed()
            size = int(batch_size) if str(batch_size).isdigit() else _BATCH
            generator = saved.load(
                checkpoint, batch_size=size, inputs_length=inputs, num_partitions=num_partitions, base_path=base
            )
        self.generator, self._end_token, self._seed = generator, end_token, seed
        self._eos = int(generator.tokenizer.vocabulary.eos_id)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding gives it) of each (context, continuation); a context is read once."""
        given: list[tuple[Any, ...]] = [one.args for one in requests]
        pairs = [(context.rstrip(), said.lstrip()) for context, said in given]
        asked: dict[str, list[str]] = {}
        for context, continuation in pairs:
            of = asked.setdefault(context, [])
            if continuation not in of:
                of.append(continuation)
        ids = iter(self.generator.tokenizer.encode([said for of in asked.values() for said in of]))
        end = [self._eos] if self._end_token else []
        questions = [
            score.Question(tokens, [[*next(ids), *end] for _ in of])
            for tokens, of in zip(self._read(list(asked)), asked.values(), strict=True)
        ]
        found: dict[tuple[str, str], tuple[float, bool]] = {}
        for (context, of), scored in zip(asked.items(), self.generator.option_scores(questions), strict=True):
            values = zip(scored.log_likelihoods, scored.likeliest, strict=True)
            found |= {(context, said): value for said, value in zip(of, values, strict=True)}
        answers = [found[pair] for pair in pairs]
        for one, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", one.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text under a decoder-only model, without an end token.

        A text longer than the model's input is cut into windows, each token predicted once, with one token before a window and
        as many as fit before the last.

        Raises:
          FlanError: the model is an encoder-decoder.
        """
        if not isinstance(self.generator.config, api.DecoderOnlyConfig):
            raise errors.FlanError(
                "rolling log-likelihood (perplexity) of a text is asked of an encoder-decoder, which gives the likelihood of a "
                "target behind an input and was trained on no text without one; expected a decoder-only checkpoint, or "
                "tasks with a context (loglikelihood) or an answer (generate_until)"
            )
        texts = [str(one.args[0]) for one in requests]
        questions: list[score.Question] = []
        owners: list[int] = []
        for number, ids in enumerate(self.generator.tokenizer.encode(texts)):
            for before, said in utils.get_rolling_token_windows(ids, 0, self.generator.inputs_length, 1):
                context, _ = utils.make_disjoint_window((before, said))
                # The first window begins with what begins every row; the model puts it there by itself.
                first = not owners or owners[-1] != number
                questions.append(score.Question([] if first else context, [said]))
                owners.append(number)
        sums = [0.0] * len(texts)
        for number, scored in zip(owners, self.generator.option_scores(questions), strict=True):
            sums[number] += scored.log_likelihoods[0]
        for one, answer in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", one.args, answer)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answer to each (context, how), up to a string of `until`.

        Raises:
          FlanError: a setting that is not known, or cannot be.
        """
        asked: list[tuple[Any, ...]] = [one.args for one in requests]
        by_how: dict[settings.Settings, list[int]] = {}
        for number, (_, given) in enumerate(asked):
            by_how.setdefault(self._how(dict(given)), []).append(number)
        answers = [""] * len(requests)
        for how, numbers in by_how.items():
            contexts = [asked[number][0].rstrip() for number in numbers]
            prompts = [generate.Prompt(tokens) for tokens in self._read(contexts)]
            for at, answer in self.generator.answers(prompts, how):
                answers[numbers[at]] = answer.text
        for one, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", one.args, answer)
        return answers

    def _read(self, contexts: Sequence[str]) -> list[list[int]]:
        """Contexts as the model reads them; the end of what is too long."""
        room = self.generator.inputs_length - 1
        found = self.generator.tokenizer.encode(list(contexts))
        long = sum(len(ids) > room for ids in found)
        if long:
            logger.warning("%d of %d contexts are longer than %d tokens: cut at the front", long, len(found), room + 1)
        return [[*ids[max(0, len(ids) - room) :], self._eos] for ids in found]

    def _how(self, given: dict[str, Any]) -> settings.Settings:
        for name in given:
            if name not in _KNOWN:
                raise errors.unknown("setting of generation", name, _KNOWN)
        until = given.get("until") or ()
        drawn = given.get("do_sample", True)  # where a task gives a temperature alone, that says it
        return settings.Settings(
            max_tokens=int(given.get("max_gen_toks", MAX_TOKENS)),
            temperature=float(given.get("temperature") or 0.0) if drawn else 0.0,
            top_k=int(given.get("top_k") or 0),
            top_p=float(given.get("top_p") or 1.0),
            stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
            seed=self._seed,
        )


def main() -> None:
    """The harness's own command line, with this model."""
    from lm_eval import __main__ as harness

    with errors.reported():
        harness.cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
