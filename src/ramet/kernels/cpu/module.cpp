// The Python side of the kernels: `ramet.kernels._cpu`. Its types are told in _cpu.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arrays.h"
#include "decoder.h"
#include "dispatch.h"
#include "pack.h"
#include "steps.h"
#include "threads.h"
#include "token_trie.h"

namespace ramet {

void bind_operations(nb::module_& module);
void bind_sampling(nb::module_& module);

namespace {

using MatrixPtr = std::shared_ptr<PackedMatrix>;
using ArenaPtr = std::shared_ptr<Arena>;

ArenaPtr or_its_own(ArenaPtr memory) { return memory ? std::move(memory) : std::make_shared<Arena>(0); }

std::string format_name(const PackedMatrix& matrix) {
    switch (matrix.view.format) {
        case Format::q4: return matrix.view.minima_at ? "q4 with minima" : "q4";
        case Format::q8: return "q8";
        case Format::bf16: return "bf16";
        case Format::f32: return "f32";
    }
    return "";
}

std::shared_ptr<Decoder> make_decoder(std::shared_ptr<Team> team, const std::string& isa, int64_t hidden,
                                      int64_t inner, int64_t num_layers, int64_t num_heads, int64_t num_kv_heads,
                                      int64_t head_dim, int64_t vocab, float eps, bool f32) {
    const Kernels* kernels = kernels_of(isa);
    require(kernels != nullptr, "this CPU or this build lacks that instruction set");
    return std::make_shared<Decoder>(
        std::move(team), *kernels,
        DecoderShape{hidden, inner, num_layers, num_heads, num_kv_heads, head_dim, vocab, eps, f32});
}

// Rows of a step: in ascending order, each once.
void require_rows(const In<int32_t, 1>& wanted, size_t num_rows) {
    require_below(wanted, int64_t(num_rows), "wanted row");
    require_ascending(wanted, "wanted rows must be in ascending order, each once");
}

void forward(Decoder& decoder, In<int32_t, 1> ids, In<int32_t, 1> positions, In<int32_t, 1> slots,
             In<int32_t, 1> row_begin, In<int32_t, 1> row_end, In<int32_t, 1> first_position,
             In<int32_t, 1> slot_offsets, In<int32_t, 1> segment_slots, In<int32_t, 1> wanted, InOut<float, 2> out) {
    const size_t num_rows = ids.size();
    require(num_rows > 0 && positions.size() == num_rows && slots.size() == num_rows,
            "ids, positions and slots must have one entry per row, and at least one");
    require_below(ids, decoder.shape().vocab, "token id");
    require_below(positions, decoder.num_positions(), "position");
    require_below(slots, decoder.num_slots(), "slot");
    require_rows(wanted, num_rows);
    require(out.shape(0) == wanted.size() && int64_t(out.shape(1)) == decoder.shape().hidden,
            "out must be [wanted rows, hidden size]");
    const SegmentView segments = checked_segments(
        {row_begin, row_end, first_position, slot_offsets, segment_slots}, positions, decoder.num_slots());
    const StepRows rows{int64_t(num_rows),   int64_t(row_begin.size()), ids.data(),    slots.data(), segments,
                        decoder.num_slots(), decoder.num_positions(),   wanted.data(), int64_t(wanted.size())};
    nb::gil_scoped_release release;
    decoder.forward(rows, out.data());
}

void logits(Decoder& decoder, In<float, 2> hidden, In<int32_t, 1> wanted, InOut<float, 2> out,
            InOut<int32_t, 1> likeliest) {
    require(int64_t(hidden.shape(1)) == decoder.shape().hidden && hidden.shape(0) == likeliest.size() &&
                out.shape(0) == wanted.size() && int64_t(out.shape(1)) == decoder.shape().vocab,
            "hidden must be [rows, hidden size], out [wanted rows, vocabulary] and likeliest [rows]");
    require_rows(wanted, hidden.shape(0));
    nb::gil_scoped_release release;
    decoder.logits(hidden.data(), int64_t(hidden.shape(0)), wanted.data(), int64_t(wanted.size()), out.data(),
                   likeliest.data());
}

ByteAutomaton checked_automaton(const In<uint8_t, 1>& byte_classes, const In<int32_t, 2>& transitions, int64_t state) {
    ByteAutomaton automaton{{}, transitions.data(), int64_t(transitions.shape(0)), int64_t(transitions.shape(1))};
    require(byte_classes.size() == automaton.classes.size(), "byte_classes must have one class per byte");
    std::copy_n(byte_classes.data(), automaton.classes.size(), automaton.classes.begin());
    require(*std::max_element(automaton.classes.begin(), automaton.classes.end()) < automaton.num_classes,
            "transitions must have a column per class of bytes");
    require(automaton.num_states <= INT32_MAX, "the automaton has too many states");
    require(state >= 0 && state < automaton.num_states, "the automaton has no such state");
    return automaton;
}

void allowed(const TokenTrie& trie, In<uint8_t, 1> byte_classes, In<int32_t, 2> transitions, int64_t state,
             InOut<uint32_t, 1> out) {
    const ByteAutomaton automaton = checked_automaton(byte_classes, transitions, state);
    require(int64_t(out.size()) == trie.num_words(), "out must have one bit per token, in words of 32");
    nb::gil_scoped_release release;
    trie.allowed(automaton, int32_t(state), out.data());
}

bool crosses(const TokenTrie& trie, In<uint8_t, 1> byte_classes, In<int32_t, 2> transitions, int64_t state,
             nb::bytes tail) {
    const ByteAutomaton automaton = checked_automaton(byte_classes, transitions, state);
    nb::gil_scoped_release release;
    return trie.crosses(automaton, int32_t(state), static_cast<const uint8_t*>(tail.data()), tail.size());
}

}  // namespace

NB_MODULE(_cpu, module) {
    nb::set_leak_warnings(false);  // a forked child that never frees what it inherited is no leak
    module.def("compiled_isas", &compiled_isas);
    module.def("supported_isas", &supported_isas);

    nb::class_<Team>(module, "Team")
        .def(nb::new_([](int num_threads) {
                 require(num_threads >= 1, "a team has at least one thread");
                 return std::make_shared<Team>(num_threads);
             }),
             nb::arg("num_threads"))
        .def_prop_ro("num_threads", &Team::size);

    nb::class_<Arena>(module, "Arena").def(nb::new_([] { return std::make_shared<Arena>(Arena::LARGE); }));
    nb::class_<PackedMatrix>(module, "Matrix")
        .def_prop_ro("shape", [](const PackedMatrix& m) { return nb::make_tuple(m.view.n, m.view.k); })
        .def_prop_ro("format", &format_name)
        .def_prop_ro("num_bytes", &PackedMatrix::num_bytes)
        .def(
            "set_bias",
            [](PackedMatrix& m, In<float, 1> bias) {
                require(int64_t(bias.size()) == m.view.n, "a bias must have one value per output");
                require(m.view.bias == nullptr, "the matrix has a bias already");
                set_bias(m, bias.data());
            },
            nb::arg("bias").noconvert());
    module.def(
        "pack",
        [](const std::string& type, In<uint8_t, 2> data, int64_t columns, bool keep_f32, ArenaPtr memory) {
            nb::gil_scoped_release release;
            return std::make_shared<PackedMatrix>(pack(type, data.data(), int64_t(data.shape(0)),
                                                       int64_t(data.shape(1)), columns, keep_f32,
                                                       or_its_own(std::move(memory))));
        },
        nb::arg("tensor_type"), nb::arg("data").noconvert(), nb::arg("columns"), nb::arg("keep_f32") = false,
        nb::arg("memory") = nb::none());
    module.def(
        "pack_q8",
        [](In<float, 2> data, ArenaPtr memory) {
            nb::gil_scoped_release release;
            return std::make_shared<PackedMatrix>(pack_q8(data.data(), int64_t(data.shape(0)), int64_t(data.shape(1)),
                                                          or_its_own(std::move(memory))));
        },
        nb::arg("data").noconvert(), nb::arg("memory") = nb::none());
    module.def(
        "interleave",
        [](const PackedMatrix& a, const PackedMatrix& b, ArenaPtr memory) {
            nb::gil_scoped_release release;
            auto [first, second] = interleave(a, b, or_its_own(std::move(memory)));
            return std::array<MatrixPtr, 2>{std::make_shared<PackedMatrix>(std::move(first)),
                                            std::make_shared<PackedMatrix>(std::move(second))};
        },
        nb::arg("a"), nb::arg("b"), nb::arg("memory") = nb::none());

    nb::class_<Decoder>(module, "Decoder")
        .def(nb::new_(&make_decoder), nb::arg("team"), nb::arg("isa"), nb::kw_only(), nb::arg("hidden_size"),
             nb::arg("intermediate_size"), nb::arg("num_layers"), nb::arg("num_heads"), nb::arg("num_kv_heads"),
             nb::arg("head_dim"), nb::arg("vocab_size"), nb::arg("rms_norm_eps"), nb::arg("float32"))
        .def("set_matrix", &Decoder::set_matrix, nb::arg("layer"), nb::arg("name"), nb::arg("matrix"))
        .def(
            "set_norm",
            [](Decoder& d, int64_t layer, const std::string& name, In<float, 1> values) {
                d.set_norm(layer, name, {values.data(), values.data() + values.size()});
            },
            nb::arg("layer"), nb::arg("name"), nb::arg("values").noconvert())
        .def("set_ends",
             [](Decoder& d, MatrixPtr embedding, MatrixPtr head, In<float, 1> norm) {
                 d.set_ends(std::move(embedding), std::move(head), {norm.data(), norm.data() + norm.size()});
             },
             nb::arg("embedding"), nb::arg("head"), nb::arg("norm").noconvert())
        .def("set_rotary",
             [](Decoder& d, In<float, 3> cos_sin) {
                 require(cos_sin.shape(1) == 2 && int64_t(cos_sin.shape(2)) * 2 == d.shape().head_dim,
                         "cos_sin must be [positions, 2, head_dim / 2]");
                 d.set_rotary(cos_sin.data(), int64_t(cos_sin.shape(0)));
             },
             nb::arg("cos_sin").noconvert())
        .def("allocate_kv",
             [](Decoder& d, int64_t num_slots) {
                 require(num_slots > 0 && num_slots <= INT32_MAX, "a pool has at least one slot");
                 d.allocate_kv(num_slots);
                 d.check_weights();
             },
             nb::arg("num_slots"))
        .def("populate_kv",
             [](const Decoder& d, int64_t piece) {
                 require(piece >= 0, "pieces are counted from 0");
                 nb::gil_scoped_release released;
                 return d.populate_kv(piece);
             },
             nb::arg("piece"))
        .def("forward", &forward, nb::arg("input_ids").noconvert(), nb::arg("positions").noconvert(),
             nb::arg("slot_ids").noconvert(), nb::arg("row_begin").noconvert(), nb::arg("row_end").noconvert(),
             nb::arg("first_position").noconvert(), nb::arg("slot_offsets").noconvert(), nb::arg("slots").noconvert(),
             nb::arg("wanted").noconvert(), nb::arg("out").noconvert())
        .def("logits", &logits, nb::arg("hidden").noconvert(), nb::arg("wanted").noconvert(), nb::arg("out").noconvert(),
             nb::arg("likeliest").noconvert())
        .def("set_profile", &Decoder::set_profile, nb::arg("on"))
        .def("take_profile", [](Decoder& d) {
            nb::dict seconds;
            auto taken = d.take_profile();
            for (int phase = 0; phase < Decoder::NUM_PHASES; ++phase)
                seconds[Decoder::PHASE_NAMES[size_t(phase)]] = taken[size_t(phase)];
            return seconds;
        });

    nb::class_<TokenTrie>(module, "TokenTrie")
        .def(nb::new_([](In<uint8_t, 1> bytes, In<int32_t, 1> depths, In<int32_t, 1> node_of_token) {
                 require(bytes.size() == depths.size(), "node_bytes and node_depths must have one entry per node");
                 nb::gil_scoped_release release;
                 return std::make_shared<TokenTrie>(bytes.data(), depths.data(), int64_t(bytes.size()),
                                                    node_of_token.data(), int64_t(node_of_token.size()));
             }),
             nb::arg("node_bytes").noconvert(), nb::arg("node_depths").noconvert(), nb::arg("node_of_token").noconvert())
        .def("allowed", &allowed, nb::arg("byte_classes").noconvert(), nb::arg("transitions").noconvert(),
             nb::arg("state"), nb::arg("out").noconvert())
        .def("crosses", &crosses, nb::arg("byte_classes").noconvert(), nb::arg("transitions").noconvert(),
             nb::arg("state"), nb::arg("tail"));

    bind_operations(module);
    bind_sampling(module);
}

}  // namespace ramet
