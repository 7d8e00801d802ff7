"""How many documents a second a worker writes, alone and in batches, without store or server.

    python -m benchmarks.writes --data DIR --set squad-train --documents 64 --batches 1 16 64

Each batch size writes the same documents (of ``fit`` at least one whole batch), the sizes in turn,
so that a busy moment of the machine meets them all; ratios are against the first size. ``fast`` is
measured with and without the report of its own loss (``PARAMEM_MEASURE_FAST``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks.command import bundle_parser, say
from benchmarks.quality import mean
from clients.evaluation.data import load_set
from memory_model.bundle import load_bundle
from memory_model.runtime import open_base
from memory_store.records import Tier
from paramem.settings import load_settings
from trainer_worker.model_writer import ModelWriter, prepare
from trainer_worker.writer import SourceDocument


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--set", dest="set_name", default="squad-mini")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit-documents", type=int, default=8, help="0 = fast writes only")
    parser.add_argument("--fit-steps", type=int, default=8)
    arguments = parser.parse_args()
    settings = load_settings().model_copy(update={"fit_steps": arguments.fit_steps})
    bundle = load_bundle(arguments.bundle, open_base(settings, arguments.model))
    prepare(bundle, may_round=settings.may_round_weights)
    found = load_set(arguments.data, arguments.set_name).documents[: arguments.documents]
    documents = [SourceDocument(document.id, document.text) for document in found]
    config, base = bundle.config, bundle.base
    tokens = mean([len(base.tokenize(document.text)) for document in documents])
    say(
        f"## Writes, {arguments.set_name}: {len(documents)} documents of {tokens:.0f} tokens on "
        f"average\n\n{config.base_model}, {base.dtype} on {base.device}, m = {config.slots}, "
        f"d = {config.z_dim}, best of {arguments.rounds} rounds.\n\n"
        "| tier | batch | documents/s | against batch "
        f"{arguments.batches[0]} |\n|---|--:|--:|--:|"
    )

    def report(
        name: str, tier: Tier, changes: Mapping[str, object], some: int, rounds: int
    ) -> None:
        writers = {
            batch: ModelWriter(
                bundle, settings.model_copy(update={"batch_passages": batch, **changes})
            )
            for batch in arguments.batches
        }
        parts = {batch: documents[: max(some, batch)] for batch in writers}
        rates = measure(writers, parts, tier, rounds)
        first = rates[arguments.batches[0]]
        for batch, rate in rates.items():
            say(f"| {name} | {batch} | {rate:.2f} | {rate / first:.2f} |")

    report("fast", Tier.FAST, {}, len(documents), arguments.rounds)
    measured = {"measure_fast": True}
    report("fast, its loss measured", Tier.FAST, measured, len(documents), arguments.rounds)
    if arguments.fit_documents:
        name = f"fit, at most {arguments.fit_steps} steps"
        report(name, Tier.FIT, {}, arguments.fit_documents, 1)


def measure(
    writers: dict[int, ModelWriter],
    parts: Mapping[int, Sequence[SourceDocument]],
    tier: Tier,
    rounds: int,
) -> dict[int, float]:
    """Documents a second of each writer's best round."""
    best = dict.fromkeys(writers, 0.0)
    for _ in range(rounds):
        for batch, writer in writers.items():
            documents = parts[batch]
            started = time.perf_counter()
            for start in range(0, len(documents), batch):
                some = documents[start : start + batch]
                writer.write(some, tier, writer.spec, lambda _p, _s: None)
            rate = len(documents) / (time.perf_counter() - started)
            best[batch] = max(best[batch], rate)
    return best


if __name__ == "__main__":
    main()
