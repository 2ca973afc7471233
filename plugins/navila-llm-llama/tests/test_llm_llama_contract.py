"""The Llama backend keeps the contract of language models."""

from navila.testing import LLMContract


class TestLlama(LLMContract):
    name = "llama"
