"""Compiles Triton's kernels for a GPU that need not be there; prints what each takes. Run as a program."""

import re

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ramet.kernels.triton import attention

KINDS = {"weighted": "*fp32", "peaks": "*fp32", "totals": "*fp32", "scale": "fp32", "positions": "*i64"}
INTEGERS = {"query_row_stride", "slot_stride", "value_slot_stride", "num_heads", "num_kv_heads", "num_rows"}


def compiled(kernel, dtype, pool_dtype, constants, **options):
    def kind(name):
        if name in constants:
            return "constexpr"
        if name in {"keys", "values"}:
            return f"*{pool_dtype}"
        if name in {"queries", "out"}:
            return f"*{dtype}"
        return KINDS.get(name) or ("i32" if name in INTEGERS else "*i32")

    signature = {name: kind(name) for name in kernel.arg_names}
    # As in a launch: torch aligns what it allocates, and a head's size is a multiple of 16
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, of) in enumerate(signature.items())
        if of.startswith("*") or name.endswith("stride")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    for dtype, pool_dtype, head_dim, tile in (
        ("bf16", "bf16", 64, 128),
        ("bf16", "bf16", 128, 16),
        ("bf16", "fp8e4nv", 128, 16),
        ("bf16", "bf16", 128, 128),
        ("bf16", "bf16", 256, 64),
        ("fp32", "fp32", 64, 128),
        ("fp32", "fp32", 128, 16),
    ):
        itemsize, precision = (2, "tf32") if dtype == "bf16" else (4, "ieee")
        launch = attention.launch_of(tile, head_dim, itemsize)
        sizes = {"GROUP": 4, "HEAD_DIM": head_dim, "BLOCK_D": head_dim, "BLOCK_M": tile, "CHUNK": 64}
        constants = sizes | {"IS_WIDE": tile > 16, "WIDE_ROWS": 32, "PRECISION": precision}
        kernel = compiled(attention._attend, dtype, pool_dtype, constants, **launch.options)
        ptx = kernel.asm["ptx"]
        products = "wgmma" if "wgmma" in ptx else "mma" if "mma." in ptx else "fma"
        fetches = len(re.findall(r"cp\.async\.cg\S* .*, 0x10", ptx))  # 16 bytes at a time
        taken = kernel.metadata.shared * launch.programs_per_multiprocessor
        print("attend", dtype, pool_dtype, head_dim, tile, taken, products, fetches)
    sizes = {"WIDE_ROWS": 32, "NARROW_ROWS": 4, "HEAD_DIM": 128, "BLOCK_D": 128}
    merged = compiled(attention._merge, "bf16", "bf16", sizes | {"AT_ONCE": attention.MERGED_AT_ONCE})
    print("merge bf16 bf16 128 0", merged.metadata.shared, "none 0")
