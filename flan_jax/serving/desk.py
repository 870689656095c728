"""The one thread that asks the model. Requests wait in a line of limited length; those that ask alike are asked together."""

import collections
import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence

from flan_jax import errors
from flan_jax.inference import decode, generate, settings
from flan_jax.serving import completions

_SMALLEST = 16  # tokens; room for answers is a power of two from here on, so that few programs are compiled


@dataclasses.dataclass(eq=False)
class Job:
    """A request in line.

    Attributes:
      request: what is asked.
      prompts: as the model reads them, each with its seed and limit.
      out: gets the answers, in the order of the prompts, or pieces of a stream; then None, or what went wrong.
      given_up: nobody waits for the answer any more.
    """

    request: completions.Request
    prompts: list[generate.Prompt]
    out: "queue.SimpleQueue[generate.Answer | generate.Piece | BaseException | None]" = dataclasses.field(
        default_factory=queue.SimpleQueue
    )
    given_up: bool = False


class Desk:
    """Takes requests from any thread and asks the model in its own."""

    def __init__(self, generator: generate.Generator, limits: completions.Limits, *, line: int) -> None:
        """Args:
        generator: the model.
        limits: of a request.
        line: requests that may wait.
        """
        self._generator, self._limits, self._line = generator, limits, line
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="flan serve: model", daemon=True)
        self._thread.start()

    def answers(self, request: completions.Request) -> tuple[Job, list[generate.Answer]]:
        """Waits for all answers of a request.

        Raises:
          Refused: the prompt is too long, the line is full, or the server is being stopped.
        """
        job = self._enter(request)
        return job, [answer for answer in self._of(job) if isinstance(answer, generate.Answer)]

    def pieces(self, request: completions.Request) -> tuple[Job, Iterator[generate.Piece]]:
        """The answer of a request with `stream`, as it comes; whoever stops listening sets `given_up`.

        Raises:
          Refused: as `answers`; for a prompt with more positions than the model has, by the first piece.
        """
        job = self._enter(request)
        return job, (piece for piece in self._of(job) if isinstance(piece, generate.Piece))

    def close(self) -> None:
        """Turns away who waits, and returns once what the model is at is done."""
        with self._changed:
            self._open = False
            for job in self._waiting:
                job.out.put(completions.Refused(503, "the server is being stopped"))
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _enter(self, request: completions.Request) -> Job:
        prompts = self._generator.prompts(request.prompts)
        for prompt in prompts:
            if prompt.cut:
                room = self._generator.inputs_length
                raise completions.Refused(
                    400,
                    f"the prompt has {len(prompt.tokens) + prompt.cut} tokens; expected at most {room}",
                    param="prompt",
                    code="context_length_exceeded",
                )
        seeds = decode.row_seeds(request.how.seed, range(len(prompts)))
        of = {"max_tokens": request.how.max_tokens}
        job = Job(request, [dataclasses.replace(p, seed=int(s), **of) for p, s in zip(prompts, seeds, strict=True)])
        with self._changed:
            if not self._open:
                raise completions.Refused(503, "the server is being stopped")
            if len(self._waiting) >= self._line:
                raise completions.Refused(429, f"{self._line} requests are waiting; try again later")
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def _of(self, job: Job) -> Iterator[generate.Answer | generate.Piece]:
        while (found := job.out.get()) is not None:
            if isinstance(found, errors.FlanError):  # more positions than the model has
                raise completions.Refused(400, str(found))
            if isinstance(found, BaseException):
                raise found
            yield found

    def _work(self) -> None:
        while jobs := self._next():
            try:
                self._ask(jobs, self._how(jobs[0]))
            except (
                errors.FlanError
            ):  # more positions than the model has, perhaps only for the sake of room or of another
                for job in jobs:
                    self._ask_alone(job)
            except BaseException as error:  # told to who asked; the next request may be another matter
                for job in jobs:
                    job.out.put(error)

    def _ask_alone(self, job: Job) -> None:
        try:
            self._ask([job], job.request.how)
        except BaseException as error:
            job.out.put(error)

    def _ask(self, jobs: Sequence[Job], how: settings.Settings) -> None:
        """Asks the model and hands out what it says."""
        if jobs[0].request.stream:
            (job,) = jobs
            for piece in self._generator.pieces(job.prompts[0], how):
                if job.given_up:
                    break
                job.out.put(piece)
        else:
            found = dict(self._generator.answers([prompt for job in jobs for prompt in job.prompts], how))
            number = iter(range(len(found)))
            for job in jobs:
                for _ in job.prompts:
                    job.out.put(found[next(number)])
        for job in jobs:
            job.out.put(None)

    def _next(self) -> list[Job]:
        """The first in line and those behind it that ask alike, as many as a batch holds; none when the desk is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            jobs, left = [first], self._generator.batch_size - len(first.prompts) * first.request.how.n
            alike = [job for job in self._waiting if not job.request.stream and self._how(job) == self._how(first)]
            for job in alike if not first.request.stream else []:
                left -= len(job.prompts) * job.request.how.n
                if left < 0:
                    break
                jobs.append(job)
                self._waiting.remove(job)
            return jobs

    def _how(self, job: Job) -> settings.Settings:
        """Settings with room for the answers of each prompt's own limit; seeds are the prompts'."""
        asked = job.request.how
        room = min(max(_SMALLEST, 1 << (asked.max_tokens - 1).bit_length()), self._limits.max_tokens)
        return asked.changed(max_tokens=max(room, asked.max_tokens), seed=0)
