"""Stop strings against a model that looks at the whole text after every token."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from parrot import EOS, byte_tokenizer

from ramet.sampling_params import SamplingParams
from ramet.scheduler.stop import StopChecker

ALPHABET = "abé"
VOCAB = byte_tokenizer().vocab


def first_stop(token_ids: list[int], stops: list[str], min_tokens: int) -> tuple[int, int] | None:
    """After how many tokens a stop is complete, and where in the text it begins."""
    shown_early = 0  # text that ``min_tokens`` let pass is beyond recall
    for count in range(1, len(token_ids) + 1):
        text = bytes(token_ids[:count]).decode(errors="ignore")
        if count < min_tokens:
            shown_early = len(text)
            continue
        begins = [text.find(stop, shown_early) for stop in stops]
        if any(begin >= 0 for begin in begins):
            return count, min(begin for begin in begins if begin >= 0)
    return None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet=ALPHABET, max_size=14),
    stops=st.lists(st.text(alphabet=ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
    as_regex=st.booleans(),
    min_tokens=st.integers(0, 6),
    ignore_eos=st.booleans(),
)
def test_a_stop_ends_the_text_as_soon_as_it_is_complete(text, stops, as_regex, min_tokens, ignore_eos):
    token_ids = list(text.encode())
    patterns = {"stop_regex" if as_regex else "stop": stops}
    params = SamplingParams(max_tokens=1000, min_tokens=min_tokens, ignore_eos=ignore_eos, **patterns)
    checker = StopChecker(params, [EOS], VOCAB)
    expected = first_stop(token_ids, stops, min_tokens)
    released = 0
    for count, token_id in enumerate(token_ids, 1):
        assert (EOS in checker.banned_token_ids) == (count <= min_tokens and not ignore_eos)
        stop = checker.append(token_id)
        if stop is not None:
            assert (count, stop.text_limit) == expected
            assert stop.finish_reason == "stop"
            assert stop.stop_reason in stops
            assert released <= stop.text_limit, "text was released that the stop claims"
            return
        assert checker.releasable_text >= released, "what is released stays so"
        released = checker.releasable_text
        held = bytes(token_ids[:count]).decode(errors="ignore")[released:]
        assert not held or any(stop.startswith(held[0]) for stop in stops), "held back without need"
    assert expected is None
    ended = checker.append(EOS)
    assert (ended is None) == ignore_eos
