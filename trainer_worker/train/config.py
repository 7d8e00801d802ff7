"""A training run as a YAML file: which model, which heads, which stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from memory_model.template import Template
from trainer_worker.train.errors import TrainingError

RERANK_REPORT_QUESTIONS = 1000


Part = Literal["reader", "compressor", "heads", "selector"]
"""Read adapter; write adapter; what maps states to codes and codes to ``inputs_embeds``; what maps
states to keys and queries."""


Rank = Annotated[int, Field(ge=1)] | Literal["full"]
"""Of an adapter. ``full``: as wide as the LLM, so that what is added to a weight can be any matrix.
That is full fine-tuning of every linear layer, kept apart like any adapter."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """One leg of the curriculum. Losses are weighted sums; the answer loss has weight 1."""

    name: str
    context: Literal["text", "memory", "selected"]
    """What is read: passages as text, their memories, or the memories that the selector chooses
    from all of the data for each question (end to end)."""
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = 20
    final_rate: float = 0.1
    """Of the learning rate, reached linearly at the last step."""
    tokens_per_slot: tuple[float, float] = (1.0, 1.0)
    """Drawn evenly for each step; not for text."""
    ramp_steps: int = 0
    """Over so many steps the upper end of ``tokens_per_slot`` rises from 1."""
    reconstruction_weight: float = 0.0
    """Of saying the passage right after its memory."""
    continuation_weight: float = 0.0
    """Of saying, set apart from the memory, the passage that follows in the document."""
    teacher_weight: float = 0.0
    """Of the KL to the text-reading teacher on the answer tokens (temperature 1)."""
    imitation_weight: float = 0.0
    """Of how far the states over questions and answers are from the teacher's, in every layer."""
    quantised_share: float = 0.0
    """Of the steps of a memory stage that read quantised codes."""
    quantisation_weight: float = 1.0
    """Of what quantising loses of the codes, relative to their variance, in those steps."""
    text_share: float = 0.0
    """Of the steps of a memory stage that read text, so that the reader keeps both."""
    retrieval_weight: float = 0.1
    """Of the selector's InfoNCE over all passages, where memories are selected."""
    frozen: frozenset[Part] = frozenset()
    """What a stage of memories leaves as it is: with the reader frozen memories learn to be read as
    they are, with compressor and heads frozen the reader learns to read what there is."""

    @property
    def trained(self) -> frozenset[Part]:
        """Where memories are given, nothing tells the selector anything."""
        if self.context == "text":
            return frozenset()
        given = {"selector"} if self.context == "memory" else set()
        return frozenset(get_args(Part)) - self.frozen - given

    @model_validator(mode="after")
    def _something_is_trained(self) -> Stage:
        if self.frozen and self.context == "text":
            raise ValueError("a text stage trains the text reader alone: nothing can be frozen")
        if self.context != "text" and not self.trained:
            raise ValueError(f"with {', '.join(sorted(self.frozen))} frozen nothing is trained")
        return self


class Quantisation(_Strict):
    """What a slot becomes in code format rq."""

    words: int = Field(default=3, ge=0)
    """Of the LLM's vocabulary, 2 bytes each (3 in vocabularies beyond 65,536); windows of more
    tokens need more of them."""
    stages: int = Field(default=4, ge=1)
    """Codebooks for what the words leave, a byte each."""
    passages: int = Field(default=1000, ge=1)
    """That it is fitted on."""


class SelectionTraining(_Strict):
    """How the selector's heads are trained."""

    epochs: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=0.001, gt=0)
    batch_questions: int = Field(default=256, ge=1)


class RerankTraining(_Strict):
    """How the re-ranker is trained, on how much of the data."""

    passages: int = Field(default=4000, ge=2)
    questions: int = Field(default=8000, ge=1)
    negatives: int = Field(default=23, ge=1)
    learning_rate: float = Field(default=0.0003, gt=0)


class TrainConfig(_Strict):
    """Contents of a file in ``experiments/configs/``."""

    model: str
    datasets: list[str]
    start: Path | None = None
    """Bundle to go on from, with the rival beside it; none = from the base LLM."""
    slots: int = Field(ge=1)
    """m that the bundle serves with; training varies it."""
    z_dim: int = Field(ge=1)
    score_margin: float | None = Field(default=None, ge=0)
    """Below the best's score down to which the bundle's service reads memories; None = all."""
    coarse_slots: int | None = Field(default=None, ge=1)
    """That each memory but the first is read in, while training and by the service; None = all."""
    layers: int = Field(ge=1)
    """Of the LLM that the compressor reads with."""
    passage_tokens: int = Field(default=160, ge=16)
    write_rank: Rank = 32
    read_rank: Rank = 32
    template: Template = Template()
    seed: int = 0
    batch_tokens: int = Field(default=2600, ge=64)
    """Per step: rows are added until about so many tokens are read."""
    accumulate: int = Field(default=1, ge=1)
    passages_per_row: list[int] = [1, 1, 2, 2, 3, 5]
    questions_per_row: int = 8
    absent_share: float = 0.1
    best_first: float = Field(default=0.0, ge=0, le=1)
    """Of the rows: their questions are on the first passage, as if a selector had found it."""
    clip_norm: float = 1.0
    checkpoint_every_s: float = 150.0
    max_documents: int | None = None
    stages: list[Stage] = []
    """None = adapters and heads of ``start`` stay."""
    quantisation: Quantisation | None = Quantisation()
    """None = the quantiser of ``start`` stays, which only codes that stay can be read with."""
    selection: SelectionTraining | None = SelectionTraining()
    """None = the selector of ``start`` stays (it does not depend on the codes)."""
    reranking: RerankTraining | None = RerankTraining()
    """None = the re-ranker of ``start`` stays."""

    @property
    def reports(self) -> int:
        """How often training tells of itself: each step, each epoch of the selector, and so on."""
        questions = self.reranking.questions if self.reranking else 0
        epochs = self.selection.epochs if self.selection else 0
        steps = sum(stage.steps for stage in self.stages)
        return steps + epochs + math.ceil(questions / RERANK_REPORT_QUESTIONS) + 1

    @property
    def trains_codes(self) -> bool:
        """Else they stay those of ``start``."""
        return any({"compressor", "heads"} & stage.trained for stage in self.stages)

    @property
    def reads_quantised(self) -> bool:
        """Whether some steps do."""
        return any(stage.quantised_share for stage in self.stages)

    @field_validator("datasets")
    @classmethod
    def _train_splits_only(cls, names: list[str]) -> list[str]:
        for name in names:
            if not name.endswith("-train"):
                raise ValueError(f"{name} is not a train split")
        return names

    @model_validator(mode="after")
    def _everything_from_somewhere(self) -> TrainConfig:
        for name in ("stages", "selection", "reranking", "quantisation"):
            if not getattr(self, name) and self.start is None:
                raise ValueError(f"without {name} there must be a start, whose own are kept")
        if self.quantisation is None and self.trains_codes:
            raise ValueError("codes that change need a quantisation of their own")
        return self


def load_config(path: Path) -> TrainConfig:
    """Raises:
    TrainingError: the file is missing or not a valid configuration; says where.
    """
    try:
        return TrainConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise TrainingError(f"no training configuration at {path}") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise TrainingError(f"{path} is not a valid training configuration: {error}") from error
