"""The native CPU kernels, compiled from `cpu/*.cpp`."""

def compiled_isas() -> list[str]:
    """The instruction sets this extension was compiled for, best first."""

def supported_isas() -> list[str]:
    """Those of `compiled_isas` that this CPU can run, best first: the first one is in use."""
