"""A conversation: roles, the model's own chat template, and turns that are not computed again.

    python examples/multi_turn_chat.py

`rm.system`, `rm.user` and `rm.assistant` write messages. Each turn continues the same prompt, so all earlier
turns are found in the engine's cache: look at the number of cached tokens.
"""

import ramet as rm


@rm.function
def conversation(s, questions):
    s += rm.system("You are a helpful AI assistant.")
    for number, question in enumerate(questions):
        s += rm.user(question)
        s += rm.assistant(rm.gen(f"answer {number}", max_tokens=48))


def main():
    questions = [
        "What is the capital of France?",
        "And what is the capital of Italy?",
        "And what is the capital of Spain?",
    ]
    with rm.Engine() as engine:
        state = conversation.run(questions, backend=engine, temperature=0)
        for message in state.messages():
            print(f"{message['role']:>9}: {message['content']}")
        for number in range(len(questions)):
            usage = state.get_meta_info(f"answer {number}")
            print(
                f"answer {number}: {usage['cached_tokens']} of {usage['prompt_tokens']} prompt tokens cached"
            )


if __name__ == "__main__":
    main()
