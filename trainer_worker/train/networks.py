"""Everything that is trained, around one base LLM.

text adapter   the reader of passages as text: teacher, rival and starting point
read adapter   the reader of memories; starts as a copy of the text adapter
write adapter  the compressor's first layers
heads          compressor heads, expander, selector
quantiser      fitted when a stage quantises first, and at the end
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import nn

from memory_model.base import BaseModel
from memory_model.bundle import (
    READ_ADAPTER,
    TEXT_ADAPTER,
    WRITE_ADAPTER,
    Heads,
    load_quantiser,
)
from memory_model.compressor import Compressor
from memory_model.encoder import first_layers
from memory_model.expander import Expander
from memory_model.quantiser import Quantiser
from memory_model.reader import Reader
from memory_model.selector import Selector
from memory_model.tensor_file import with_prefix
from trainer_worker.train.config import Part, Quantisation, Rank, TrainConfig
from trainer_worker.train.errors import TrainingError

ReaderName = Literal["text_adapter", "read_adapter"]


@dataclass(frozen=True, slots=True)
class Networks:
    """The trained parts and the LLM they are in."""

    base: BaseModel
    lm: PeftModel  # base.lm with both readers' adapters in place
    encoder: PeftModel  # first layers, own weights, with the write adapter
    compressor: Compressor
    expander: Expander
    selector: Selector
    quantiser: Quantiser
    reader: Reader

    def read_with(self, adapter: ReaderName, *, frozen: bool = False) -> None:
        """Make one of the two readers the active one, and the only one with gradients if any."""
        self.lm.set_adapter(adapter)
        for parameter in self.adapter_parameters(adapter):
            parameter.requires_grad_(not frozen)

    def start_reading_memories(self) -> None:
        """Copy the text adapter over the read adapter."""
        weights = get_peft_model_state_dict(self.lm, adapter_name=TEXT_ADAPTER)
        set_peft_model_state_dict(self.lm, weights, adapter_name=READ_ADAPTER)

    @property
    def heads(self) -> Heads:
        return Heads(compressor=self.compressor, expander=self.expander, selector=self.selector)

    def modules(self) -> dict[str, nn.Module]:
        """The heads by name."""
        return cast(dict[str, nn.Module], self.heads)

    def adapter_parameters(self, adapter: ReaderName) -> list[nn.Parameter]:
        return [p for name, p in self.lm.named_parameters() if f".{adapter}." in name]

    def parts(self) -> dict[Part, list[nn.Parameter]]:
        """What the losses of memory stages can train."""
        writer = [p for name, p in self.encoder.named_parameters() if f".{WRITE_ADAPTER}." in name]
        return {
            "reader": self.adapter_parameters(READ_ADAPTER),
            "compressor": writer,
            "heads": [*self.compressor.parameters(), *self.expander.parameters()],
            "selector": [
                *self.selector.key_head.parameters(),
                *self.selector.query_head.parameters(),
            ],
        }

    def state(self) -> dict[str, torch.Tensor]:
        """All trained tensors by name."""
        tensors: dict[str, torch.Tensor] = {}
        for model, adapter in self._adapters():
            weights = get_peft_model_state_dict(model, adapter_name=adapter)
            tensors |= {f"{adapter}:{name}": tensor for name, tensor in weights.items()}
        for name, module in self.modules().items():
            tensors |= {f"{name}:{key}": value for key, value in module.state_dict().items()}
        if self.quantiser.is_fitted:
            fitted = self.quantiser.state_dict()
            tensors |= {f"quantiser:{key}": value for key, value in fitted.items()}
        return tensors

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Inverse of :meth:`state`."""
        for model, adapter in self._adapters():
            set_peft_model_state_dict(
                model, with_prefix(tensors, f"{adapter}:"), adapter_name=adapter
            )
        for name, module in self.modules().items():
            module.load_state_dict(with_prefix(tensors, f"{name}:"))
        if fitted := with_prefix(tensors, "quantiser:"):
            self.quantiser.load_state_dict(fitted)

    def _adapters(self) -> list[tuple[Any, str]]:
        return [(self.lm, TEXT_ADAPTER), (self.lm, READ_ADAPTER), (self.encoder, WRITE_ADAPTER)]


def build_networks(config: TrainConfig, base: BaseModel) -> Networks:
    """Adapters that change nothing yet, and heads that pass token embeddings through.

    Raises:
        TrainingError: a stage reads codes quantised as in ``start``, which has no quantiser.
    """
    torch.manual_seed(config.seed)
    selector = Selector(base, key_dim=config.z_dim, own_weights=True)
    encoder = _with_adapter(
        first_layers(base.lm, config.layers, own_weights=True),
        base.name,
        config.write_rank,
        WRITE_ADAPTER,
    )
    lm = _with_adapter(base.lm, base.name, config.read_rank, TEXT_ADAPTER)
    lm.add_adapter(READ_ADAPTER, lm.peft_config[TEXT_ADAPTER], autocast_adapter_dtype=False)
    compressor = Compressor(
        base, slots=config.slots, z_dim=config.z_dim, layers=config.layers, trunk=encoder
    )
    expander = Expander(z_dim=config.z_dim, hidden_size=base.hidden_size)
    pass_embeddings_through(base, compressor, expander)
    quantiser = _quantiser(config, base)
    for module in (compressor, expander, selector, quantiser):
        module.to(base.device)
    reader = Reader(base, expander, config.template)
    return Networks(base, lm, encoder, compressor, expander, selector, quantiser, reader)


@torch.no_grad()
def pass_embeddings_through(base: BaseModel, compressor: Compressor, expander: Expander) -> None:
    """Code = token embedding in its first d principal directions; the expander inverts it."""
    table = base.embedding_table.float().cpu()  # (vocabulary, h)
    d = compressor.code_head.out_features
    if d == base.hidden_size:
        basis = torch.eye(d)
    else:
        basis = torch.linalg.eigh(table.T @ table).eigenvectors.flip(1)[:, :d].T  # (d, h)
    compressor.embedding_head.weight.copy_(basis)
    compressor.code_head.weight.zero_()
    compressor.code_head.bias.zero_()
    expander.linear.weight.copy_(basis.T)
    expander.linear.bias.zero_()


@torch.no_grad()
def scale_states(compressor: Compressor, token_ids: Sequence[Sequence[int]]) -> None:
    """Scale every dimension of the compressor's states to root mean square 1 on these texts."""
    compressor.state_scale.fill_(1.0)
    reading = compressor.read(token_ids)
    states = reading.states[reading.mask]  # (T, h)
    compressor.state_scale.copy_(states.square().mean(dim=0).clamp(min=1e-12).rsqrt())


def _quantiser(config: TrainConfig, base: BaseModel) -> Quantiser:
    """To be fitted, or that of the start.

    Raises:
        TrainingError: the start has none, and some steps read quantised codes.
    """
    if config.quantisation is None and config.start is not None:
        kept = load_quantiser(config.start, base)
        if kept is not None:
            return kept
        if config.reads_quantised:
            raise TrainingError(f"{config.start} has no quantiser to keep; set quantisation")
    named = config.quantisation or Quantisation()
    return Quantiser(base, z_dim=config.z_dim, words=named.words, stages=named.stages)


def _with_adapter(model: Any, base_name: str, rank: Rank, name: str) -> Any:
    r = model.config.hidden_size if rank == "full" else rank  # one side of each matrix is h
    lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trunk has no output layer to tell LoRA to spare
        wrapped = get_peft_model(model, lora, adapter_name=name, autocast_adapter_dtype=False)
    wrapped.peft_config[name].base_model_name_or_path = base_name  # not a path of this machine
    return wrapped
