"""What stands around exemplars and queries: tables in `tasks/delimiters.yaml`, of which each example draws a row."""

import dataclasses
import functools
import re

from flan_jax import errors, shipped

FLAN_2022, OPT_IML = "flan2022", "opt_iml"
_LABEL = re.compile(r"[A-Z][\w ]{0,24}:\s")


@dataclasses.dataclass(frozen=True)
class Delimiter:
    """What stands around one exemplar, or around the query.

    Attributes:
      input: before the inputs, unless they start with a label of their own.
      between: after the inputs.
      target: before the targets.
      exemplar: after the targets.
      closes: whether the query, too, stands between `input` and `between` + `target`.
    """

    input: str = ""
    between: str = ""
    target: str = ""
    exemplar: str = ""
    closes: bool = True

    def query(self, inputs: str) -> str:
        """A query's inputs with what stands around them, unless they end in a colon that says the same.

        Where they end in a list of options, what follows starts a line: "- no Answer:" would be one more option.
        """
        if not self.closes:
            return inputs
        close = (self.between + self.target).rstrip()
        if not self.exemplar and inputs.endswith(":"):
            close = ""
        elif close.startswith(" ") and inputs.rpartition("\n")[2].startswith("- "):
            close = "\n" + close.lstrip()
        return self.before(inputs) + inputs + close

    def around(self, inputs: str, targets: str) -> str:
        """An exemplar's text with what stands around it."""
        return f"{self.before(inputs)}{inputs}{self.between}{self.target}{targets}{self.exemplar}"

    def before(self, inputs: str) -> str:
        """What precedes these inputs: "Q: Premise: ..." would say the same twice."""
        return "" if labelled(inputs) else self.input


def labelled(inputs: str) -> bool:
    """Whether a text starts with a label, such as "Premise: "."""
    return _LABEL.match(inputs) is not None


# FLAN 2021's exemplars are told apart by role markers of its own vocabulary, which others lack. White space alone would not
# do: T5's vocabulary has no newline.
FLAN_2021 = Delimiter(between="\n=\n", exemplar="\n###\n", closes=False)


def draw(name: str, point: int) -> Delimiter:
    """The row of a table that a hash picks."""
    rows = table(name)
    return rows[point % len(rows)]


@functools.cache
def table(name: str) -> tuple[Delimiter, ...]:
    """Reads a table.

    Raises:
      FlanError: there is none of that name.
    """
    import yaml

    content = yaml.safe_load((shipped.directory("tasks") / "delimiters.yaml").read_text(encoding="utf-8"))
    if name not in content:
        raise errors.unknown("table of delimiters", name, content)
    return tuple(Delimiter(**row) for row in content[name])
