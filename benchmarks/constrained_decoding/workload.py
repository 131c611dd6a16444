"""The extraction workload: messages of customers, the record wanted of each, and what is wrong with one.

The check is written for this schema alone and shares no code with the engine. Knows nothing of engines.
"""

from __future__ import annotations

import json
from typing import Any

from ramet.types import Prompt

_STRING_LENGTH = 32

_FIELDS: dict[str, dict[str, Any]] = {
    "full_name_of_the_customer": {"type": "string", "minLength": 1, "maxLength": _STRING_LENGTH},
    "name_of_the_product_that_was_ordered": {"type": "string", "minLength": 1, "maxLength": _STRING_LENGTH},
    "number_of_items_in_the_order": {"type": "integer", "minimum": 1, "maximum": 99},
    "total_price_of_the_order_in_euros": {"type": "integer", "minimum": 0, "maximum": 9999},
    "has_the_order_been_delivered_already": {"type": "boolean"},
    "does_the_customer_ask_for_a_refund": {"type": "boolean"},
    "preferred_way_to_reach_the_customer": {"enum": ["telephone", "email", "letter", "not mentioned"]},
    "overall_mood_of_the_message": {"enum": ["angry", "disappointed", "neutral", "pleased"]},
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": _FIELDS,
    "required": list(_FIELDS),
    "additionalProperties": False,
}

RECORD = (
    '{"full_name_of_the_customer": "Martha Lindqvist", "name_of_the_product_that_was_ordered": '
    '"coffee mill", '
    '"number_of_items_in_the_order": 2, "total_price_of_the_order_in_euros": 118, '
    '"has_the_order_been_delivered_already": true, "does_the_customer_ask_for_a_refund": false, '
    '"preferred_way_to_reach_the_customer": "email", "overall_mood_of_the_message": "pleased"}'
)
"""A record as it should be."""

MAX_TOKENS = 256

MESSAGES = (
    "Hello, Martha Lindqvist here. The two coffee mills for 118 euros came this morning and I love them. "
    "Write me an email if you want a review!",
    "I am Tomasz Wilk. I paid 49 euros for one desk lamp three weeks ago and nothing has arrived. "
    "Give me my money back and call me today.",
    "This is Aiko Tanaka. My order of 12 paper notebooks, 36 euros in all, is on its way I hope? "
    "A short mail with the date would do.",
    "Sirs, the garden hose (24 euros, a single one) leaks at both ends. I want a refund. "
    "Reply by letter please. Henry Abernathy",
    "Good morning, Lucia Ferrante speaking: all 6 wine glasses arrived whole, 54 euros well spent. "
    "Thank you so much!",
    "My name is Oluwaseun Adeyemi. You sent 3 left shoes instead of 3 pairs of sandals. 210 euros for this? "
    "Refund me, and phone me at once.",
    "Please confirm my order: 40 folding chairs, 1560 euros, for the village hall. Brigitte Maurer. "
    "My telephone is on the form.",
    "Not what I hoped for. The blanket is thin and smells of glue. 79 euros, one blanket, delivered Monday. "
    "I keep it all the same. Piet de Groot",
    "Here is Sofia Nikolaidis. The 5 jars of thyme honey for 45 euros are the best I have had. Mail "
    "me when there is more.",
    "One bicycle helmet, 65 euros, ordered by Callum Reid on the 3rd. Still not here on the 20th, "
    "and nobody answers. "
    "I have had enough, pay me back.",
    "To whom it may concern: I ordered 8 brass hinges at 32 euros together. They came on Friday. "
    "Kindly send the invoice by post. Edith Saunders",
    "Hey, Diego Morales. That kettle? Dead after two days. 1 kettle, 39 euros, and I would like them back. "
    "Just email me how.",
    "Dear shop, my 2 rain barrels (142 euros) should come next week. Could the driver ring me half "
    "an hour before? "
    "Annelie Sundberg",
    "Wonderful! The 1000-piece puzzle for 28 euros made our evening, there was just the one box "
    "left. Greetings, Kwame Boateng",
    "I must say I am let down. Of the 10 tulip bulbs only 4 came up. 15 euros is little, but still, "
    "a refund is fair. "
    "Write to me by mail. Ines Carvalho",
    "This is Yusuf Demir about 7 toner cartridges, 483 euros. Delivered to the wrong floor, found by luck. "
    "No harm done, but call before next time.",
)

_INSTRUCTION = "Read the message of a customer and write down the facts as one JSON object."


def prompts(count: int) -> list[Prompt]:
    """The first messages, each as a chat that asks for its record."""
    return [
        Prompt.from_messages([{"role": "user", "content": f"{_INSTRUCTION}\n\nThe message:\n{message}"}])
        for message in MESSAGES[:count]
    ]


def mistakes(text: str) -> list[str]:
    """What is wrong with a record; nothing if it is a value of `SCHEMA` with its fields in order."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if not isinstance(pairs, list) or [pair[0] for pair in pairs if isinstance(pair, tuple)] != list(_FIELDS):
        return ["not an object of the wanted fields, in order"]
    return [f"{name} is {value!r}" for name, value in pairs if not _fits(value, _FIELDS[name])]


def _fits(value: object, field: dict[str, Any]) -> bool:
    if "enum" in field:
        return value in field["enum"]
    match field["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            return is_integer and field["minimum"] <= value <= field["maximum"]
        case kind:
            assert kind == "string", f"no check for {kind}"
            return isinstance(value, str) and field["minLength"] <= len(value) <= field["maxLength"]


def differing_values(text: str, other: str) -> int:
    """Of two valid records, how many fields do not have the same value."""
    ours, theirs = json.loads(text), json.loads(other)
    return sum(ours[name] != theirs[name] for name in _FIELDS)


NUM_FIELDS = len(_FIELDS)
