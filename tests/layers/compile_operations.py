"""Compiles a layer's kernels for a GPU that need not be there; prints what each takes. Run as a program."""

import re

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ramet.kernels.triton import matmul, rowwise

SCALARS = {"eps": "fp32", "limit": "fp32"}
INTEGERS = {
    "qkv_row_stride",
    "key_slot_stride",
    "value_slot_stride",
    "size",
    "num_rows",
    "in_features",
    "out_features",
    "x_row_stride",
}
POINTERS = {"cos_sin": "*fp32", "slot_ids": "*i64"}
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


def compiled(kernel, dtype, options, pool=None, **flags):
    """A kernel of rows of a dtype, all of whose sizes are multiples of 16, as those of models are."""
    names = kernel.arg_names
    constants = flags | {name: value for name, value in options.items() if name in names}
    launch = {name: value for name, value in options.items() if name not in names}

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in INTEGERS:
            return "i32"
        if name in {"keys", "values"}:
            return f"*{pool}"
        return SCALARS.get(name) or POINTERS.get(name, f"*{dtype}")

    signature = {name: kind(name) for name in names}
    divisible = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or (name in INTEGERS and name != "num_rows")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=launch)


def report(name, dtype, kernel):
    ptx = kernel.asm["ptx"]
    products = re.search(r"wgmma\.mma_async|mma\.sync", ptx)
    narrowed = re.search(r"cvt\.rn\.satfinite\.e4m3x2\.f32", ptx)
    print(name, dtype, kernel.metadata.shared, *(found[0] for found in (products, narrowed) if found))


if __name__ == "__main__":
    for dtype, itemsize in ITEMSIZE.items():
        for size in (576, 4096):
            for add in (False, True):
                options = rowwise.norm_options(size)
                report("norm", dtype, compiled(rowwise._norm, dtype, options, ADD=add, SIZE=size))
        report("silu", dtype, compiled(rowwise._silu_and_multiply, dtype, {"BLOCK": rowwise.SILU_BLOCK}))
        for heads, norm, pool in (((32, 8, 128), True, dtype), ((7, 1, 98), False, "fp8e4nv")):
            options = rowwise.head_options(*heads)
            kernel = compiled(rowwise._rotate_and_write, dtype, options, pool, NORM=norm)
            report(f"rotate-{pool}", dtype, kernel)
        for out_features, even in ((576, False), (12288, True), (128256, True)):
            options = matmul.tile_options(out_features, itemsize)
            flags = {"BIAS": not even, "EVEN": even, "PRECISION": "ieee"}
            report("linear", dtype, compiled(matmul._linear, dtype, options, **flags))
