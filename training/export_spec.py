"""What an export is to be: its format, prompts and gates, how tokens are counted, for which trainer it is verified."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from quality.gates import Thresholds
from training.messages import Message, from_sharegpt, messages, one_message, sharegpt
from training.rows import Row
from training.sources import Prompts
from training.tokens import Tokens
from training.trainers import Trained
from training.verify import Verifier


@dataclass(frozen=True)
class ExportSpec:
    """How rows are made, each under its own prompt; what fails a `hard` gate is the worse of two."""

    format_name: str
    prompts: Prompts = field(default_factory=Prompts)
    thresholds: Thresholds = field(default_factory=Thresholds)
    hard: Sequence[str] = ()
    test_share: float = 0.0
    tokens: Tokens = field(default_factory=Tokens)
    best: int | None = None
    """Pairs of a question, at most: those whose better trajectories are the best."""
    max_length: int | None = None
    """Longer rows are left out."""
    verifier: Verifier | None = None
    counted_as: Verifier | None = None
    """The trainer whose tokens are counted, where it is known what it does with a row."""

    def tokens_of(self, row: Row) -> int:
        """The tokens of a row as it would be written."""
        chat = one_message(row, self.prompts.system(row)) if self.format_name == "drtulu" else self.messages(row)
        chat = from_sharegpt(sharegpt(chat)) if self.format_name == "sharegpt" else chat
        return self.measured(chat, self.trained(chat))

    def trained(self, chat: Sequence[Message]) -> Trained | None:
        """A conversation as a trainer takes it, where one is known."""
        trainer = self.verifier or self.counted_as
        return trainer.trained(chat) if trainer else None

    def measured(self, chat: Sequence[Message], trained: Trained | None) -> int:
        """The tokens of a conversation."""
        return self.tokens(chat) if trained is None else len(trained.places)

    def messages(self, row: Row) -> list[Message]:
        """The conversation as the model saw it."""
        return messages(row, self.prompts.system(row), self.prompts.tool_role(row))
