"""Constrained decoding: from regexes and schemas to automata, from automata to tokens.

A constraint is parsed into a syntax tree (`regex`, `json_schema`), built into a minimal automaton over bytes
(`automaton`), compressed (`compressed`), joined with the vocabulary (`token_index`), and followed by one
matcher per request (`matcher`, `jump_forward`); `compiler` does all that once per constraint. Invariant: what
a matcher allows or forces spells a prefix of a string of the language. Knows no requests, steps or tensors.
"""
