"""Text to token ids and back: one tokenizer per model, read from a GGUF file or a folder.

Invariant: ``decode(vocab, tokenizer.encode(text, parse_special=False)) == text``, unless the model's own
normalizer changes the text; text that comes from users never turns into control tokens. Knows nothing of
requests or tensors.
"""

from ramet.tokenizer.chat_template import ChatTemplate
from ramet.tokenizer.detokenizer import Detokenizer, decode
from ramet.tokenizer.load import load_tokenizer
from ramet.tokenizer.tokenizer import Tokenizer
from ramet.tokenizer.vocab import Vocab

__all__ = ["ChatTemplate", "Detokenizer", "Tokenizer", "Vocab", "decode", "load_tokenizer"]
