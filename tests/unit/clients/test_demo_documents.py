from __future__ import annotations

from clients.demo import demo_documents, demo_questions
from clients.evaluation.answers import contains


def test_there_are_about_twenty_short_documents_with_a_heading_each() -> None:
    documents = demo_documents("auto")
    assert 18 <= len(documents) <= 24
    for document in documents:
        assert document.text.startswith(f"# {document.title}\n")
        assert 40 <= len(document.text.split()) <= 70  # 50 to 90 tokens
    assert len({document.title for document in documents}) == len(documents)


def test_every_answer_stands_in_its_document_and_in_no_other() -> None:
    texts = {document.id: document.text for document in demo_documents("fast")}
    for question in demo_questions():
        for answer in question.answers:
            homes = [name for name, text in texts.items() if contains(text, answer)]
            assert homes == [question.document]


def test_no_question_gives_its_answer_away() -> None:
    for question in demo_questions():
        assert not question.is_answered_by(question.question)
