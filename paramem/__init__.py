"""paramem: an LLM that remembers. Settings and logging shared by every process."""

__version__ = "0.1.0"
