"""One evaluation from start to end: store the set, ask the questions, measure, collect."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients.async_client import AsyncClient
from clients.client import Client
from clients.errors import APIError, ParamemError
from clients.evaluation.ask import AskedQuestion, ask_questions
from clients.evaluation.bootstrap import Estimate, estimate
from clients.evaluation.corpus import Corpus, Report, prepare_corpus
from clients.evaluation.data import Question, QuestionSet
from clients.evaluation.measure import (
    EvaluationResult,
    ReconstructionResult,
    SettingResult,
    StoreResult,
)
from clients.evaluation.plan import Plan, Setting
from clients.evaluation.reconstruction import likelihood, rouge_l
from clients.results import Collection, Version


def run_evaluation(
    client: Client, questions: QuestionSet, plan: Plan, report: Report
) -> EvaluationResult:
    """Every stage is told to ``report``.

    Raises: ParamemError when the server cannot be used, when nothing could be written, or when
    not one question of a setting was answered.
    """
    version = client.version()
    if version.engine is None:
        raise ParamemError(f"the engine of {client.url} is still loading; try again when ready")
    collection = client.put_collection(
        plan.collection_name, slots=plan.slots, code_format=plan.code_format
    )
    corpus = prepare_corpus(
        client,
        questions.documents,
        collection=plan.collection_name,
        mode=plan.mode,
        report=report,
    )
    sample = questions.sample(plan.limit, plan.seed)
    asked = {setting: _ask(client.url, sample, setting, plan, report) for setting in plan.settings}
    recited = _recite(client, questions, corpus, plan, report)
    return EvaluationResult(
        facts=_facts(version, collection, questions, sample, plan),
        settings={
            setting: SettingResult.of(answers, selects=setting.selects, top_k=plan.top_k)
            for setting, answers in asked.items()
        },
        store=StoreResult.of(corpus, questions.documents),
        reconstruction=ReconstructionResult(likelihood(corpus.memories), recited),
        asked=asked,
    )


def _ask(
    url: str, questions: Sequence[Question], setting: Setting, plan: Plan, report: Report
) -> list[AskedQuestion]:
    answered = 0

    def count() -> None:
        nonlocal answered
        answered += 1
        report(f"asking ({setting})", answered, len(questions))

    async def ask() -> list[AskedQuestion]:
        async with AsyncClient(url) as client:
            return await ask_questions(client, questions, setting, plan, count)

    asked = asyncio.run(ask())
    if all(one.error for one in asked):
        raise ParamemError(f"every question failed under {setting}: {asked[0].error}")
    return asked


def _recite(
    client: Client, questions: QuestionSet, corpus: Corpus, plan: Plan, report: Report
) -> Estimate | None:
    """ROUGE-L of the first documents recited from memory; None when nothing was to be recited."""
    texts = {document.id: document.text for document in questions.documents}
    chosen = corpus.memories[: plan.reconstruct]
    scores: list[float] = []
    for number, memory in enumerate(chosen, 1):
        try:
            recited = client.reconstruction(
                memory.document_id,
                collection=plan.collection_name,
                max_new_tokens=plan.reconstruct_tokens,
            )
        except APIError as error:
            raise ParamemError(
                f"cannot recite {memory.document_id}: {error}; leave it out with --reconstruct 0"
            ) from error
        scores.append(rouge_l(texts[memory.document_id], memory, recited))
        report("reciting", number, len(chosen))
    return estimate(scores)


def _facts(
    version: Version,
    collection: Collection,
    questions: QuestionSet,
    sample: Sequence[Question],
    plan: Plan,
) -> dict[str, Any]:
    """Everything a published number must carry."""
    engine = version.engine
    assert engine is not None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "paramem": version.version,
        "set": questions.name,
        "documents": len(questions.documents),
        "questions": len(sample),
        "questions_in_set": len(questions.questions),
        "seed": plan.seed,
        "model": engine.model,
        "fingerprint": engine.fingerprint,
        "m": collection.slots,
        "code_format": collection.code_format,
        "d": engine.z_dim,
        "K": plan.top_k,
        "dtype": engine.dtype,
        "device": engine.device,
        "client_host": hardware(),
        "collection": plan.collection_name,
        "mode": plan.mode,
        "score_margin": engine.score_margin if plan.score_margin is None else plan.score_margin,
        "coarse_slots": plan.coarse_slots or engine.coarse_slots,
        "selection": plan.selection or next(iter(engine.selections), None),
        "max_new_tokens": plan.max_new_tokens,
        "concurrency": plan.concurrency,
    }


def hardware() -> str:
    """Processor and usable cores of this machine: the server's too, if it is a local one."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count()
    return f"{name}, {cores} cores"
