"""One client of one application without a socket, for tests that ask and look at the answer."""

import asyncio
import json
from contextlib import contextmanager

from serving import in_process


@contextmanager
def asking(engine, **options):
    """Gives ``ask(path, body)``: a POST with a JSON body (or raw bytes), a GET without one; the response."""
    with asyncio.Runner() as runner:
        client = in_process(engine, **options)

        def ask(path, body=None, *, method=None, headers=None):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            method = method or ("GET" if body is None else "POST")
            sent = {"headers": {"content-type": "application/json", **(headers or {})}}
            if body is not None:
                sent["content"] = content
            return runner.run(client.request(method, path, **sent))

        try:
            yield ask
        finally:
            runner.run(client.aclose())
            engine.shutdown()
