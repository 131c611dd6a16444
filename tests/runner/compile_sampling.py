"""Compiles the kernels of sampling for a GPU that need not be there; prints what each takes. A program."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ramet.kernels.triton import likeliest, logits, sampling

INTEGERS = {"row_stride", "vocab_size", "num_words", "num_entries", "level", "width"}
WIDE = {"rows", "samples", "places", "numbers", "totals", "sums_before", "sums", "rooms"}
DOUBLES = {"amounts", "uniforms"}
FLOATS = {"temperatures", "min_ps", "peaks", "repetition", "frequency", "presence", "entry_value", "out"}


def compiled(kernel, dtype, constants, num_warps):
    """A kernel of logits of a dtype, in a vocabulary that is a multiple of 16, as those of models are."""

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in INTEGERS:
            return "i32"
        if name == "logits":
            return f"*{dtype}"
        return (
            "*i64" if name in WIDE else "*fp64" if name in DOUBLES else "*fp32" if name in FLOATS else "*i32"
        )

    signature = {name: kind(name) for name in kernel.arg_names}
    divisible = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in {"row_stride", "vocab_size"}
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})


def report(dtype, kernel, num_warps=4, **constants):
    names = kernel.arg_names
    sizes = {"BLOCK": sampling.BLOCK, "BLOCKS": 64, "CHUNK": likeliest.CHUNK, "ENTRIES": logits.ENTRIES}
    constants |= {name: value for name, value in sizes.items() if name in names}
    done = compiled(kernel, dtype, constants, num_warps)
    print(kernel.__name__, dtype, done.metadata.shared)


if __name__ == "__main__":
    for kernel in (logits._penalize, logits._add_bias):
        report("fp32", kernel)
    for dtype in ("fp32", "bf16"):
        for without in ({}, {"bitmask": None}):
            report(dtype, sampling._survey, 8, **without)
            report(dtype, sampling._weigh, 8, **without)
            report(dtype, sampling._pick, 8, **without)
        report(dtype, sampling._pick, 8, bitmask=None, uniforms=None)
        report(dtype, sampling._logprob)
    for weighted in (False, True):  # these change the logits, which are a copy then
        report("fp32", likeliest._count_digits, WEIGHTED=weighted)
        report("fp32", likeliest._drop, 8, WEIGHTED=weighted)
