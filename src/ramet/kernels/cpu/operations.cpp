// Single kernels, called from Python by tests and benchmarks: what the decoder calls, on arrays of their own.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <vector>

#include "arrays.h"
#include "dispatch.h"
#include "pack.h"
#include "plan.h"
#include "steps.h"
#include "threads.h"

namespace ramet {

namespace {

const Kernels& kernels_named(const std::string& isa) {
    const Kernels* kernels = kernels_of(isa);
    require(kernels != nullptr, "this CPU or this build lacks that instruction set");
    return *kernels;
}

// out = x @ matrix.T (+ bias)
void linear(const std::string& isa, const PackedMatrix& matrix, In<float, 2> x, InOut<float, 2> out) {
    const Kernels& kernels = kernels_named(isa);
    const Matrix& w = matrix.view;
    const int64_t rows = int64_t(x.shape(0));
    require(int64_t(x.shape(1)) == w.k && int64_t(out.shape(0)) == rows && int64_t(out.shape(1)) == w.n,
            "x must be [rows, inputs] and out [rows, outputs]");
    Buffer bytes(size_t(rows * w.blocks * BLOCK)), scales(size_t(rows * w.blocks) * 4);
    Buffer offsets4(size_t(rows * w.blocks) * 4), offsets8(size_t(rows * w.blocks) * 4);
    Buffer sums(size_t(rows * even(w.blocks)) * 2), bf16(size_t(rows * even(w.k)) * 2);
    const bool quantized = w.format == Format::q4 || w.format == Format::q8;
    Inputs inputs{w.k, w.blocks, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    std::vector<float> f32(w.format == Format::f32 ? size_t(rows * w.k) : 0);
    if (quantized) {
        inputs.bytes = bytes.as<int8_t>();
        inputs.scales = scales.as<float>();
        inputs.offsets4 = offsets4.as<int32_t>();
        inputs.offsets8 = offsets8.as<int32_t>();
        inputs.sums = sums.as<uint16_t>();
    }
    if (w.format == Format::bf16) inputs.bf16 = bf16.as<uint16_t>();
    if (w.format == Format::f32) inputs.f32 = f32.data();
    nb::gil_scoped_release release;
    for (int64_t row = 0; row < rows; ++row) kernels.convert(x.data() + row * w.k, row, inputs);
    for (int64_t panel = 0; panel < w.panels; panel += 2)
        kernels.matmul(w, inputs, rows, panel, int(std::min<int64_t>(2, w.panels - panel)), {},
                       out.data() + panel * PANEL, w.n, false);
}

// Attention over a pool that is filled from float32 keys and values [slots, kv_heads, head_dim].
void attention(Team& team, const std::string& isa, In<float, 3> queries, In<float, 3> keys, In<float, 3> values,
               bool f32_pool, In<int32_t, 1> positions, In<int32_t, 1> row_begin, In<int32_t, 1> row_end,
               In<int32_t, 1> first_position, In<int32_t, 1> slot_offsets, In<int32_t, 1> slots,
               InOut<float, 2> out) {
    const Kernels& kernels = kernels_named(isa);
    const int64_t rows = int64_t(queries.shape(0)), heads = int64_t(queries.shape(1)), dim = int64_t(queries.shape(2));
    const int64_t num_slots = int64_t(keys.shape(0)), kv_heads = int64_t(keys.shape(1));
    require(dim > 0 && dim <= 512 && kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
            "the numbers of heads do not fit");
    require(int64_t(keys.shape(2)) == dim && values.shape(0) == keys.shape(0) && values.shape(1) == keys.shape(1) &&
                int64_t(values.shape(2)) == dim && int64_t(positions.size()) == rows &&
                int64_t(out.shape(0)) == rows && int64_t(out.shape(1)) == heads * dim,
            "the shapes of queries, keys, values, positions and out do not fit");
    const SegmentView segments =
        checked_segments({row_begin, row_end, first_position, slot_offsets, slots}, positions, num_slots);
    const int64_t group = heads / kv_heads, stride = round_up(dim, HEAD_ALIGN);
    const bool f32 = f32_pool || !kernels.native_bf16;
    const int64_t block_bytes = kv_heads * KV_BLOCK * KVLayer::bytes_of_record(stride, f32_pool);
    Buffer pool(size_t(round_up(num_slots, KV_BLOCK) / KV_BLOCK * block_bytes));
    Buffer rotated(size_t(rows * heads * stride) * (f32 ? 4 : 2) + 64);
    std::vector<float> padded(static_cast<size_t>(stride));
    auto put = [&](Buffer& to, int64_t at, const float* from, float scale, bool as_f32) {
        for (int64_t d = 0; d < dim; ++d) padded[size_t(d)] = from[d] * scale;
        const Inputs form{stride, 0, nullptr, nullptr, nullptr, nullptr, nullptr,
                          as_f32 ? nullptr : to.as<uint16_t>() + at, as_f32 ? to.as<float>() + at : nullptr};
        kernels.convert(padded.data(), 0, form);
    };
    const KVLayer kv{pool.as<char>(), block_bytes, stride, f32_pool};
    std::vector<float> row_scratch(static_cast<size_t>(stride));
    for (int64_t slot = 0; slot < num_slots; ++slot)
        for (int64_t head = 0; head < kv_heads; ++head) {
            const int64_t from = (slot * kv_heads + head) * dim;
            kernels.write_kv(keys.data() + from, values.data() + from, dim, kv, head, slot, row_scratch.data());
        }
    const float scale = 1.4426950408889634f / std::sqrt(float(dim));
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t head = 0; head < heads; ++head)
            put(rotated, ((head / group * rows + row) * group + head % group) * stride,
                queries.data() + (row * heads + head) * dim, scale, f32);
    const AttentionShape shape{kv_heads, group, dim, f32, rows, rotated.as<void>(), out.data()};
    nb::gil_scoped_release release;
    AttentionPlan plan;
    plan.build(segments, int64_t(row_begin.size()), rows, shape, stride, team.size());
    const int64_t scratch_bytes = (kernels.attend_scratch(stride, group) + 63) / 64 * 64;
    Buffer scratch(size_t(scratch_bytes * team.size()));
    team.run([&](int thread) {
        team.share(thread, int64_t(plan.units().size()), [&](int64_t unit) {
            kernels.attend(shape, kv, segments, plan.units()[size_t(unit)],
                           scratch.as<char>() + scratch_bytes * thread);
        });
        team.sync(thread);
        team.share(thread, plan.num_split_rows(), [&](int64_t row) { merge_row(kernels, shape, stride, plan, row); });
    });
}

}  // namespace

void bind_operations(nb::module_& module) {
    module.def("linear", &linear, nb::arg("isa"), nb::arg("matrix"), nb::arg("x").noconvert(), nb::arg("out").noconvert());
    module.def("attention", &attention, nb::arg("team"), nb::arg("isa"), nb::arg("queries").noconvert(), nb::arg("keys").noconvert(),
               nb::arg("values").noconvert(), nb::arg("float32_pool"), nb::arg("positions").noconvert(), nb::arg("row_begin").noconvert(),
               nb::arg("row_end").noconvert(), nb::arg("first_position").noconvert(), nb::arg("slot_offsets").noconvert(), nb::arg("slots").noconvert(),
               nb::arg("out").noconvert());
}

}  // namespace ramet
