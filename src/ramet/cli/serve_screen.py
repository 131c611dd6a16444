"""The first screen of a server: what it serves, where, and a line to try it with."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ramet import __version__
from ramet.config import ServerConfig
from ramet.model_card import ModelCard

_BODY = '{"messages": [{"role": "user", "content": "Say hello."}]}'


def show_first_screen(url: str, card: ModelCard, config: ServerConfig) -> None:
    """On stderr: a panel at a terminal, plain lines elsewhere."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    facts = _facts(url, card, config)
    command = curl_line(url, config)
    if not console.is_terminal:
        for name, value in facts:
            console.print(Text(f"{name}: {value}"))
        console.print(Text(f"try: {command}"))
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in facts:
        table.add_row(Text(name), Text(value, style="bold" if name in ("model", "url") else ""))
    title = Text.assemble(("ramet", "bold"), f" {__version__}")
    console.print(Panel(table, title=title, title_align="left", expand=False))
    console.print(Text(command, style="cyan"))
    console.print(Text("Ctrl-C stops it: running requests finish first.", style="dim"))


def curl_line(url: str, config: ServerConfig) -> str:
    """A command that asks the server something."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if config.api_keys else ""
    trust = " --insecure" if config.ssl_certfile else ""
    return f"curl{trust} {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{_BODY}'"


def _facts(url: str, card: ModelCard, config: ServerConfig) -> list[tuple[str, str]]:
    keys = f"{len(config.api_keys)} accepted" if config.api_keys else "none needed"
    return [
        ("model", config.served_model_name or card.name),
        ("kernels", card.kernels),
        ("KV cache", f"{card.num_slots:,} tokens ({card.pool_bytes >> 20:,} MiB)"),
        ("context", f"{card.max_sequence_tokens:,} tokens"),
        ("url", url),
        ("OpenAI base URL", f"{url}/v1"),
        ("docs", f"{url}/docs"),
        ("API keys", keys),
    ]
