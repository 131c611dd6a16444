"""Let the model judge with `select`: it picks the likeliest of given choices, and can do nothing else.

    python examples/judge_select.py

All choices are scored in one step, as branches of the prompt. What "likeliest" means is a decision rule:

- token_length_normalized (the default): the highest mean logprob per token,
- greedy_token_selection: token by token, the way greedy decoding would go,
- unconditional_likelihood_normalized: the choice that the prompt makes most more likely than it is anyway.
"""

import ramet as rm

EXAMPLES = """\
Review: The soup was cold and the waiter was rude.
Verdict: bad

Review: A lovely evening, we will come again!
Verdict: good

Review: The room was dirty and the music far too loud.
Verdict: bad

Review: Wonderful cake, and such kind people.
Verdict: good

"""

RULES = {
    "token_length_normalized": rm.token_length_normalized,
    "greedy_token_selection": rm.greedy_token_selection,
    "unconditional_likelihood_normalized": rm.unconditional_likelihood_normalized,
}


@rm.function
def judge(s, review, rule):
    s += EXAMPLES + f"Review: {review}\nVerdict:"
    s += rm.select("verdict", choices=[" good", " bad"], choices_method=rule)


def main():
    reviews = ["The best pizza I ever had.", "We waited two hours for a burnt steak."]
    with rm.Engine() as engine:
        for review in reviews:
            print(review)
            for name, rule in RULES.items():
                state = judge.run(review, rule, backend=engine)
                meta = state.get_meta_info("verdict")
                scores = zip(meta["choices"], meta["normalized_prompt_logprobs"], strict=True)
                shown = ", ".join(f"{choice.strip()} {logprob:.2f}" for choice, logprob in scores)
                print(f"  {state['verdict'].strip():<5} by {name} (mean logprobs: {shown})")


if __name__ == "__main__":
    main()
