// The arrays of `ramet.model_io.Sampling` and `ModelOutput`, checked, as sampling.cpp takes them.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

#include "arrays.h"

namespace ramet {

// An array that is an attribute of a Python object. What is written to must not be a converted copy.
template <class Array>
inline Array attribute(nb::handle object, const char* name) {
    Array array;
    if (!nb::try_cast(object.attr(name), array, Array::ReadOnly))
        throw nb::type_error((std::string(name) + " has another type, number of dimensions or order").c_str());
    return array;
}

// The entries of a sparse matrix, sorted by sample; the order within a sample is kept.
class BySample {
public:
    void build(const In<int32_t, 1>& entry_sample, size_t num_samples) {
        require_below(entry_sample, int64_t(num_samples), "sample of an entry");
        begins_.assign(num_samples + 1, 0);
        for (size_t i = 0; i < entry_sample.size(); ++i) ++begins_[size_t(entry_sample.data()[i]) + 1];
        for (size_t sample = 0; sample < num_samples; ++sample) begins_[sample + 1] += begins_[sample];
        std::vector<size_t> at(begins_.begin(), begins_.end() - 1);
        entries_.resize(entry_sample.size());
        for (size_t i = 0; i < entry_sample.size(); ++i) entries_[at[size_t(entry_sample.data()[i])]++] = i;
    }
    bool any(size_t sample) const { return !begins_.empty() && begins_[sample] != begins_[sample + 1]; }
    template <class Body>
    void each(size_t sample, const Body& body) const {
        if (begins_.empty()) return;
        for (size_t i = begins_[sample]; i < begins_[sample + 1]; ++i) body(entries_[i]);
    }

private:
    std::vector<size_t> begins_, entries_;
};

struct PenaltyArrays {
    In<float, 1> repetition, frequency, presence;
    In<int32_t, 1> token, output_count;
    BySample by_sample;
};

struct BiasArrays {
    In<int32_t, 1> token;
    In<float, 1> value;
    BySample by_sample;
};

// The arrays of `ramet.model_io.Sampling`, checked against each other.
struct Samples {
    In<int32_t, 1> rows, top_k, num_top;
    In<float, 1> temperature, top_p, min_p;
    PenaltyArrays penalties;
    BiasArrays bias;
    In<uint32_t, 2> bitmask;
    bool masked = false;

    explicit Samples(nb::handle sampling)
        : rows(attribute<In<int32_t, 1>>(sampling, "rows")),
          top_k(attribute<In<int32_t, 1>>(sampling, "top_k")),
          num_top(attribute<In<int32_t, 1>>(sampling, "num_top_logprobs")),
          temperature(attribute<In<float, 1>>(sampling, "temperature")),
          top_p(attribute<In<float, 1>>(sampling, "top_p")),
          min_p(attribute<In<float, 1>>(sampling, "min_p")) {
        const size_t n = rows.size();
        require(top_k.size() == n && num_top.size() == n && temperature.size() == n && top_p.size() == n &&
                    min_p.size() == n,
                "the arrays of sampling must have one value per sample");
        if (nb::object given = sampling.attr("penalties"); !given.is_none()) {
            penalties.repetition = attribute<In<float, 1>>(given, "repetition");
            penalties.frequency = attribute<In<float, 1>>(given, "frequency");
            penalties.presence = attribute<In<float, 1>>(given, "presence");
            penalties.token = attribute<In<int32_t, 1>>(given, "entry_token");
            penalties.output_count = attribute<In<int32_t, 1>>(given, "entry_output_count");
            auto entry_sample = attribute<In<int32_t, 1>>(given, "entry_sample");
            require(penalties.repetition.size() == n && penalties.frequency.size() == n &&
                        penalties.presence.size() == n && penalties.token.size() == entry_sample.size() &&
                        penalties.output_count.size() == entry_sample.size(),
                    "the arrays of penalties must have one value per sample or one per entry");
            penalties.by_sample.build(entry_sample, n);
        }
        if (nb::object given = sampling.attr("bias"); !given.is_none()) {
            bias.token = attribute<In<int32_t, 1>>(given, "entry_token");
            bias.value = attribute<In<float, 1>>(given, "entry_value");
            auto entry_sample = attribute<In<int32_t, 1>>(given, "entry_sample");
            require(bias.token.size() == entry_sample.size() && bias.value.size() == entry_sample.size(),
                    "the arrays of bias must have one value per entry");
            bias.by_sample.build(entry_sample, n);
        }
        if (nb::object given = sampling.attr("bitmask"); !given.is_none()) {
            bitmask = attribute<In<uint32_t, 2>>(sampling, "bitmask");
            masked = true;
            require(bitmask.shape(0) == n, "bitmask must have one row per sample");
        }
    }

    void check_tokens(int64_t vocab_size) const {
        require_below(penalties.token, vocab_size, "penalised token");
        require_below(bias.token, vocab_size, "biased token");
        require(!masked || int64_t(bitmask.shape(1)) == (vocab_size + 31) / 32,
                "bitmask must have one bit per token, in words of 32");
    }

    // Whether the likeliest token is what is drawn.
    bool is_greedy(size_t sample) const { return !(temperature.data()[sample] > 0) && !masked && !changed(sample); }
    // Whether that is all that is asked for.
    bool wants_no_logits(size_t sample) const { return is_greedy(sample) && num_top.data()[sample] < 0; }

    bool changed(size_t sample) const { return penalties.by_sample.any(sample) || bias.by_sample.any(sample); }

    void change(size_t sample, float* logits) const {
        penalties.by_sample.each(sample, [&](size_t entry) {
            float& value = logits[penalties.token.data()[entry]];
            const float repetition = penalties.repetition.data()[sample];
            const auto count = float(penalties.output_count.data()[entry]);
            value = value > 0 ? value / repetition : value * repetition;
            value -= penalties.frequency.data()[sample] * count;
            if (count > 0) value -= penalties.presence.data()[sample];
        });
        bias.by_sample.each(sample, [&](size_t entry) { logits[bias.token.data()[entry]] += bias.value.data()[entry]; });
    }
};

// The arrays of `ramet.model_io.ModelOutput`.
struct Outputs {
    InOut<int32_t, 1> token_ids;
    InOut<float, 1> logprobs;
    InOut<int32_t, 2> top_token_ids;
    InOut<float, 2> top_logprobs;
    InOut<float, 1> score_logprobs;
    size_t max_top;

    Outputs(nb::handle output, const Samples& samples, size_t num_scores)
        : token_ids(attribute<InOut<int32_t, 1>>(output, "token_ids")),
          logprobs(attribute<InOut<float, 1>>(output, "logprobs")),
          top_token_ids(attribute<InOut<int32_t, 2>>(output, "top_token_ids")),
          top_logprobs(attribute<InOut<float, 2>>(output, "top_logprobs")),
          score_logprobs(attribute<InOut<float, 1>>(output, "score_logprobs")),
          max_top(top_token_ids.shape(1)) {
        const size_t n = samples.rows.size();
        require(token_ids.size() == n && logprobs.size() == n && top_token_ids.shape(0) == n &&
                    top_logprobs.shape(0) == n && top_logprobs.shape(1) == max_top &&
                    score_logprobs.size() == num_scores,
                "the arrays of the output must have one entry per sample or score");
        for (size_t i = 0; i < n; ++i)
            require(samples.num_top.data()[i] <= int64_t(max_top), "the output has too few columns for the top logprobs");
    }
};

}  // namespace ramet
