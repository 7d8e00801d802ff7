"""How often the right document is selected, against BM25 and encoders on the same passages.

    python -m benchmarks.selection --data DIR --sets squad-dev nq-dev

Every passage of the set's full corpus is a candidate; recall@k is the share of a question's gold
documents among the documents of the k best passages, mean over questions.
"""

from __future__ import annotations

from collections.abc import Sequence

from baselines.encoder import SentenceEncoder, load_encoder
from benchmarks.command import bundle_parser, say
from benchmarks.offline import OfflineModel
from benchmarks.ranking import (
    CANDIDATES,
    Ranking,
    embed_keys,
    rank_bm25,
    rank_by_attention,
    rank_by_encoder,
    rank_by_keys,
    rank_fused,
    stored_keys,
)
from clients.evaluation.bootstrap import estimate
from clients.evaluation.data import Question, QuestionSet, load_set
from clients.evaluation.retrieval import recall_at
from memory_store.records import CodeFormat
from paramem.settings import load_settings

CUTS = (1, 5, 20)


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=["squad-dev", "nq-dev"])
    parser.add_argument("--limit", type=int, help="questions of each set; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--attention", action="store_true", help="re-rank too; compresses every passage"
    )
    parser.add_argument(
        "--encoder", help="a sentence encoder to compare with, e.g. all-minilm-l6-v2"
    )
    arguments = parser.parse_args()
    encoder = None
    if arguments.encoder:
        settings = load_settings().model_copy(update={"rag_encoder": arguments.encoder})
        encoder = load_encoder(settings)
    model = OfflineModel(arguments.bundle, arguments.model)
    heads = " | ".join(f"R@{cut}" for cut in CUTS)
    say(f"| set | documents | passages | questions | selection | {heads} |\n" + "|---" * 8 + "|")
    for name in arguments.sets:
        found = load_set(arguments.data, name)
        questions = [q for q in found.sample(arguments.limit, arguments.seed) if q.doc_ids]
        measure(model, found, questions, encoder, with_attention=arguments.attention)


def measure(
    model: OfflineModel,
    found: QuestionSet,
    questions: Sequence[Question],
    encoder: SentenceEncoder | None,
    *,
    with_attention: bool,
) -> None:
    """Print the rows of one set."""
    passages = [
        (document.id, passage)
        for document in found.documents
        for passage in model.splitter.split(document.text)
    ]
    owners = [document_id for document_id, _ in passages]
    asked = [question.question for question in questions]
    deepest = min(max(CUTS), len(passages))
    texts = [passage.text for _, passage in passages]
    keys = embed_keys(model, texts)
    coarse = stored_keys(keys, CodeFormat.INT4)
    rankings = {
        "BM25": rank_bm25(texts, asked, deepest),
        "router": rank_by_keys(model, keys, asked, deepest),
        "router, int4 keys": rank_by_keys(model, coarse, asked, deepest),
        "cosine": rank_by_keys(model, keys, asked, deepest, query_head=False),
    }
    deep = min(CANDIDATES, len(passages))
    both = [rank_by_keys(model, keys, asked, deep), rank_bm25(texts, asked, deep)]
    rankings["hybrid"] = rank_fused(both, deepest)
    if encoder is not None:
        rankings[encoder.name] = rank_by_encoder(encoder, texts, asked, deepest)
    if with_attention:
        codes = model.compress([passage.token_ids for _, passage in passages])
        rankings["attention"], _ = rank_by_attention(model, keys, codes, texts, asked, deepest)
    for selection, ranking in rankings.items():
        cells = " | ".join(recall_cell(cut, ranking, owners, questions) for cut in CUTS)
        say(
            f"| {found.name} | {len(found.documents)} | {len(passages)} | {len(questions)} "
            f"| {selection} | {cells} |"
        )


def recall_cell(
    cut: int, ranking: Ranking, owners: Sequence[str], questions: Sequence[Question]
) -> str:
    recalls = [
        recall_at(cut, [owners[row] for row in rows], question.doc_ids)
        for rows, question in zip(ranking, questions, strict=True)
    ]
    found = estimate([recall for recall in recalls if recall is not None])
    assert found is not None
    return f"{found:.3f}"


if __name__ == "__main__":
    main()
