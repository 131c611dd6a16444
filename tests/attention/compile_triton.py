"""Compiles Triton's kernels for a GPU that need not be there; prints what each takes. Run as a program."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ramet.kernels.triton import attention

FLOATS = {"weighted": "*fp32", "peaks": "*fp32", "totals": "*fp32", "scale": "fp32"}
INTEGERS = {"query_row_stride", "slot_stride", "value_slot_stride", "num_heads"}


def compiled(kernel, dtype, constants, **options):
    def kind(name):
        if name in constants:
            return "constexpr"
        if name in {"queries", "keys", "values", "out"}:
            return f"*{dtype}"
        return FLOATS.get(name) or ("i32" if name in INTEGERS else "*i32")

    source = ASTSource(
        fn=kernel, signature={name: kind(name) for name in kernel.arg_names}, constexprs=constants
    )
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    for dtype, itemsize, precision in (("bf16", 2, "tf32"), ("fp32", 4, "ieee")):
        for head_dim, tile in ((64, 128), (128, 16), (256, 64)):
            launch = attention.launch_options(tile, head_dim, itemsize)
            constants = {"GROUP": 4, "HEAD_DIM": head_dim, "BLOCK_D": head_dim, "BLOCK_M": tile, "CHUNK": 64}
            kernel = compiled(attention._attend, dtype, constants | {"PRECISION": precision}, **launch)
            products = (
                "wgmma" if "wgmma" in kernel.asm["ptx"] else "mma" if "mma." in kernel.asm["ptx"] else "fma"
            )
            print("attend", dtype, head_dim, tile, kernel.metadata.shared, products)
    merged = compiled(attention._merge, "bf16", {"HEAD_DIM": 128, "BLOCK_D": 128})
    print("merge bf16 128 0", merged.metadata.shared, "none")
