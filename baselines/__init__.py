"""Text baselines behind the same HTTP contract: the RAG endpoint comes here."""
