"""What templates may do, and what happens when they refuse or look into messages."""

from __future__ import annotations

import logging
from datetime import datetime

import jinja2
import pytest

from ramet.errors import InvalidRequest
from ramet.tokenizer.chat_template import ChatTemplate, Markup
from ramet.types import Generated, Prompt, RoleBegin, RoleEnd, Text


def pieces_of(source: str, prompt: Prompt, **options):
    return ChatTemplate(source, **options).pieces(prompt, lambda ids: "".join(map(chr, ids)))


def render(source: str, *messages: tuple[str, str], **options) -> str:
    parts = []
    for role, content in messages:
        parts += [RoleBegin(role), Text(content), RoleEnd(role)]
    return "".join(piece.text for piece in pieces_of(source, Prompt(tuple(parts)), **options))


def test_what_the_template_writes_stays_apart_from_what_messages_hold():
    prompt = Prompt((RoleBegin("user"), Text("a"), Generated("b", (1,)), RoleEnd("user")))
    pieces = pieces_of("{% for m in messages %}<{{ m.content }}>{% endfor %}", prompt)
    assert pieces == [Markup("<"), Text("a"), Generated("b", (1,)), Markup(">")]


def test_the_dialect_of_model_authors():
    source = """\
{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
    {% generation %}{{ m.content | trim }}{% endgeneration %}
    {%- if loop.last %}{% break %}{% endif %}
{% endfor %}
{{- {'a<': 'é'} | tojson }}{{ bos_token }}{{ strftime_now('%Y') }}{{ tools is none }}"""
    expected = 'hi{"a<": "é"}<s>' + datetime.now().strftime("%Y") + "True"
    got = render(source, ("user", "hi"), bos_token="<s>")
    assert got.strip() == expected


def test_a_refusal_names_the_message():
    source = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"""
    assert render(source, ("user", "a"), ("assistant", "b")) == "ab"
    with pytest.raises(InvalidRequest, match=r"messages\[2\] \(role 'assistant'\): roles must alternate"):
        render(source, ("user", "a"), ("assistant", "b"), ("assistant", "c"), ("user", "d"))


@pytest.mark.parametrize("source", ["{{ messages[0].content + none }}", "{{ messages.nothing.at_all }}"])
def test_other_errors_inside_a_template_name_a_message_too(source):
    with pytest.raises(InvalidRequest, match=r"messages\[0\]"):
        render(source, ("user", "a"))


def test_a_broken_template_is_reported_when_it_is_used():
    with pytest.raises(InvalidRequest, match="not valid Jinja"):
        render("{% if %}", ("user", "a"))


def test_templates_are_kept_in_a_sandbox():
    with pytest.raises(InvalidRequest, match="unsafe"):
        render("{{ messages.__class__.__mro__ }}", ("user", "a"))
    with pytest.raises(InvalidRequest):
        render("{{ messages.append(1) }}", ("user", "a"))


def test_filters_do_not_change_contents():
    """They work on a placeholder: what was generated stays as the model wrote it."""
    assert (
        render("{% for m in messages %}{{ m.content | trim | upper }}{% endfor %}", ("user", " a ")) == " a "
    )


def test_a_template_that_cuts_contents_up_gets_them(caplog):
    cuts = "{% for m in messages %}<{{ m.role }}>{{ m.content[2:] }}{% endfor %}"
    with caplog.at_level(logging.WARNING):
        assert render(cuts, ("user", "x#a"), ("assistant", "y#b")) == "<user>a<assistant>b"
    assert "looks into the messages" in caplog.text


def test_a_template_may_leave_messages_out_or_say_them_twice(caplog):
    only_user = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
    twice = "{% for m in messages %}[{{ m.content }}{{ m.content }}]{% endfor %}"
    template = ChatTemplate(only_user)
    prompt = Prompt((RoleBegin("system"), Text("s"), RoleEnd("system"), RoleBegin("user"), Text("<|x|>")))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pieces = template.pieces(prompt, str)
    assert pieces == [Markup("["), Text("<|x|>")]  # still not trusted, and cut after it
    assert len(caplog.records) == 1
    assert render(twice, ("user", "ab")) == "[abab]"


def test_messages_may_be_rendered_in_another_order():
    reverse = "{% for m in messages | reverse %}{{ m.role }}:{{ m.content }};{% endfor %}"
    assert render(reverse, ("system", "s"), ("user", "u")) == "user:u;system:s;"


def test_which_message_is_refused_is_found_without_trying_all(monkeypatch):
    strict = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    num_rendered = 0
    render_template = jinja2.Template.render

    def counted(*args, **values):
        nonlocal num_rendered
        num_rendered += 1
        return render_template(*args, **values)

    monkeypatch.setattr(jinja2.Template, "render", counted)
    for refused in (0, 1, 700, 999):
        messages = [("user", "a")] * 1000
        messages[refused] = ("tool", "a")
        num_rendered = 0
        with pytest.raises(InvalidRequest, match=rf"refuses messages\[{refused}\] \(role 'tool'\)"):
            render(strict, *messages)
        assert num_rendered < 20


def test_texts_between_many_messages_are_refused():
    message = (RoleBegin("user"), Text("a"), RoleEnd("user"), Text("b"))
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert template.pieces(Prompt(message * 300), str)
    with pytest.raises(InvalidRequest, match="too many texts stand between messages"):
        template.pieces(Prompt(message * 1000), str)
    assert template.pieces(Prompt(message[:3] * 1000), str), "nothing stands between these"
