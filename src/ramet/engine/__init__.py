"""From text to tokens and back, the step loop, and the place where everything is put together."""
