"""Class names as a detector's output layer: captions, their tokens, a language model, and its folding into weights."""

from dyzoo.grounding.captions import Caption, write_captions
from dyzoo.grounding.files import read_language, write_language
from dyzoo.grounding.folding import LanguageModel
from dyzoo.grounding.tokenizer import WordPiece, bert_tokenizer

__all__ = [
    "Caption",
    "LanguageModel",
    "WordPiece",
    "bert_tokenizer",
    "read_language",
    "write_captions",
    "write_language",
]
