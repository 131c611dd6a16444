// Hidden states or logits in; tokens, logprobs and scores out: the native half of ramet.runner.native_sampler.
//
// Invariant: what a sample gets depends on its row of logits and its own parameters alone. Each row is summed up
// once and each sample drawn by one thread, always in the same order of operations.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "decoder.h"
#include "dispatch.h"
#include "memory.h"
#include "sampling_arrays.h"
#include "threads.h"

namespace ramet {

namespace {

// Neighbouring rows whose logits are to be computed: `likeliest` [num_rows] gets the first token with the largest logit
// of each, -1 if that is not finite or a logit is not a number; `logits` [num_wanted][vocab] those of the rows at the
// places `wanted`, which ascend.
struct RowBlock {
    int64_t begin, num_rows;
    const int32_t* wanted;
    int64_t num_wanted;
    float* logits;
    int32_t* likeliest;
};

using LogitsSource = std::function<void(const RowBlock&)>;

// What a step asks for, as arrays from Python.
struct Asked {
    In<int32_t, 1> rows;  // all that are sampled or scored: ascending
    nb::handle sampling;  // ramet.model_io.Sampling
    In<double, 1> uniforms;
    In<int32_t, 1> score_rows, score_token_ids;
    nb::handle output;  // ramet.model_io.ModelOutput
};

class Sampler {
public:
    Sampler(std::shared_ptr<Team> team, const Kernels& kernels, int64_t block_bytes)
        : team_(std::move(team)),
          kernels_(kernels),
          block_bytes_(block_bytes),
          scratch_(size_t(team_->size())),
          changed_(scratch_.size()) {}

    // Logits are computed once for each row, in blocks of bounded size; those that nobody looks at are not written.
    void sample(const Asked& asked, int64_t vocab_size, const LogitsSource& compute);

    // The first token with the largest logit of each row, and copies of the wanted ones: a `LogitsSource`.
    void read(const In<float, 2>& logits, const RowBlock& block);

private:
    struct Job {
        size_t sample;
        int64_t row;
    };
    struct Block;

    // Whose turn it is does not matter, so one task is not worth waking the others for.
    template <class Body>
    void for_each(size_t count, const Body& body) {
        if (count <= 1 || team_->size() == 1) {
            for (size_t i = 0; i < count; ++i) body(i, 0);
            return;
        }
        team_->run([&](int thread) {
            team_->share(thread, int64_t(count), [&](int64_t i) { body(size_t(i), thread); });
        });
    }

    std::shared_ptr<Team> team_;
    const Kernels& kernels_;
    const int64_t block_bytes_;  // of logits that are computed at a time
    std::mutex mutex_;
    // Kept from step to step
    Buffer logits_;
    std::vector<int32_t> wanted_, likeliest_;
    std::vector<Buffer> scratch_, changed_;  // of each thread
};

// The place of a number among ascending ones; -1 if it is not there.
int64_t find(const int32_t* ascending, int64_t count, int64_t number) {
    const int32_t* at = std::lower_bound(ascending, ascending + count, number);
    return at != ascending + count && *at == number ? at - ascending : -1;
}

// Some rows, and those samples and scores that belong to them.
struct Sampler::Block {
    Sampler& sampler;
    const int32_t* row_ids;
    const RowBlock& rows;
    const Samples& samples;
    const In<double, 1>& uniforms;
    const Outputs& outputs;
    const int64_t vocab_size;
    std::vector<double> log_totals;  // of the rows of logits that need it: log of the sum of exp(logit)

    const float* row_logits(int64_t row) const { return rows.logits + row * vocab_size; }
    int64_t likeliest_of(int64_t row) const { return rows.likeliest[rows.wanted[row]]; }
    int64_t find_place(int32_t row_id) const { return find(row_ids, rows.num_rows, row_id); }
    int64_t find_logits(int64_t place) const { return find(rows.wanted, rows.num_wanted, place); }

    void run(const In<int32_t, 1>& score_rows, const In<int32_t, 1>& score_token_ids) {
        log_totals.resize(size_t(rows.num_wanted), NAN);
        std::vector<uint8_t> needs_total(log_totals.size());
        std::vector<Job> quick, slow, scores;
        bool any_changed = false;
        for (size_t sample = 0; sample < samples.rows.size(); ++sample) {
            const int64_t place = find_place(samples.rows.data()[sample]);
            if (place < 0) continue;
            if (samples.wants_no_logits(sample)) {
                put(sample, rows.likeliest[place]);
                continue;
            }
            const int64_t row = find_logits(place);
            const int32_t num_top = samples.num_top.data()[sample];
            any_changed |= samples.changed(sample);
            needs_total[size_t(row)] |= num_top >= 0;
            (samples.is_greedy(sample) && num_top == 0 ? quick : slow).push_back({sample, row});
        }
        for (size_t score = 0; score < score_rows.size(); ++score) {
            const int64_t place = find_place(score_rows.data()[score]);
            if (place < 0) continue;
            scores.push_back({score, find_logits(place)});
            needs_total[size_t(scores.back().row)] = true;
        }
        std::vector<int64_t> totalled;
        for (size_t row = 0; row < needs_total.size(); ++row)
            if (needs_total[row]) totalled.push_back(int64_t(row));
        if (!slow.empty())
            for (Buffer& buffer : sampler.scratch_)
                buffer.reserve<char>(sampler.kernels_.sampling_scratch(vocab_size));
        if (any_changed)
            for (Buffer& buffer : sampler.changed_) buffer.reserve<float>(vocab_size);

        sampler.for_each(totalled.size(), [&](size_t i, int) { read_row(totalled[i]); });
        sampler.for_each(slow.size(), [&](size_t i, int thread) { finish(slow[i], thread); });
        for (const Job& job : quick) finish(job, 0);
        for (const Job& score : scores)
            outputs.score_logprobs.data()[score.sample] =
                logprob(score.row, score_token_ids.data()[score.sample]);
    }

    void read_row(int64_t row) {
        const int64_t token = likeliest_of(row);
        if (token < 0) return;
        const float peak = row_logits(row)[token];
        log_totals[size_t(row)] =
            double(peak) + std::log(sampler.kernels_.sum_weights({row_logits(row), vocab_size, nullptr}, peak));
    }

    float logprob(int64_t row, int64_t token) const {
        return float(double(row_logits(row)[token]) - log_totals[size_t(row)]);
    }

    int64_t draw(const Job& job, int thread) const {
        const size_t sample = job.sample;
        const float* from = row_logits(job.row);
        if (samples.changed(sample)) {
            auto* changed = sampler.changed_[size_t(thread)].as<float>();
            std::memcpy(changed, from, size_t(vocab_size) * sizeof(float));
            samples.change(sample, changed);
            from = changed;
        }
        const uint32_t* allowed =
            samples.masked ? samples.bitmask.data() + sample * samples.bitmask.shape(1) : nullptr;
        const Draw how{samples.temperature.data()[sample], samples.top_k.data()[sample], samples.top_p.data()[sample],
                       samples.min_p.data()[sample], uniforms.data()[sample]};
        return sampler.kernels_.draw({from, vocab_size, allowed}, how, sampler.scratch_[size_t(thread)].as<void>());
    }

    // A token without logprobs.
    void put(size_t sample, int64_t token) const {
        outputs.token_ids.data()[sample] = int32_t(token);
        outputs.logprobs.data()[sample] = NAN;
        std::fill_n(outputs.top_token_ids.data() + sample * outputs.max_top, outputs.max_top, 0);
        std::fill_n(outputs.top_logprobs.data() + sample * outputs.max_top, outputs.max_top, -INFINITY);
    }

    void finish(const Job& job, int thread) const {
        const size_t sample = job.sample;
        const int64_t token = samples.is_greedy(sample) ? likeliest_of(job.row) : draw(job, thread);
        put(sample, token);
        int32_t* top_ids = outputs.top_token_ids.data() + sample * outputs.max_top;
        float* top_logprobs = outputs.top_logprobs.data() + sample * outputs.max_top;
        const int32_t num_top = samples.num_top.data()[sample];
        if (token < 0 || num_top < 0) return;
        outputs.logprobs.data()[sample] = logprob(job.row, token);
        if (num_top == 0) return;
        const int64_t count = std::min<int64_t>(num_top, vocab_size);
        if (likeliest_of(job.row) < 0) {  // a bitmask hid what is not finite from the draw only
            std::fill_n(top_logprobs, count, NAN);
            return;
        }
        sampler.kernels_.find_top({row_logits(job.row), vocab_size, nullptr}, count, top_ids,
                                  sampler.scratch_[size_t(thread)].as<void>());
        for (int64_t i = 0; i < count; ++i) top_logprobs[i] = logprob(job.row, top_ids[i]);
    }
};

// Every row is there.
void require_among(const In<int32_t, 1>& rows, const In<int32_t, 1>& all, const char* message) {
    for (size_t i = 0; i < rows.size(); ++i)
        require(find(all.data(), int64_t(all.size()), rows.data()[i]) >= 0, message);
}

void Sampler::sample(const Asked& asked, int64_t vocab_size, const LogitsSource& compute) {
    const In<int32_t, 1>& score_rows = asked.score_rows;
    require(vocab_size > 0 && vocab_size <= INT32_MAX, "logits must have a column per token");
    require(score_rows.size() == asked.score_token_ids.size(), "score_rows and score_token_ids differ in length");
    require_below(asked.score_token_ids, vocab_size, "scored token");
    require_ascending(asked.rows, "rows must be in ascending order, each once");
    require_among(score_rows, asked.rows, "a row that is scored is not among the rows");
    const Samples samples(asked.sampling);
    samples.check_tokens(vocab_size);
    require_among(samples.rows, asked.rows, "a row that is sampled is not among the rows");
    require(asked.uniforms.size() == samples.rows.size(), "uniforms must have one value per sample");
    const Outputs outputs(asked.output, samples, score_rows.size());
    const auto num_rows = int64_t(asked.rows.size());
    const int64_t most_rows = std::max<int64_t>(block_bytes_ / (vocab_size * int64_t(sizeof(float))), 1);

    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> one_caller(mutex_);
    for (int64_t begin = 0; begin < num_rows; begin += most_rows) {
        const int32_t* row_ids = asked.rows.data() + begin;
        const int64_t count = std::min(most_rows, num_rows - begin);
        wanted_.assign(size_t(count), 0);
        auto look = [&](int32_t row_id) {
            const int64_t place = find(row_ids, count, row_id);
            if (place >= 0) wanted_[size_t(place)] = 1;
        };
        for (size_t sample = 0; sample < samples.rows.size(); ++sample)
            if (!samples.wants_no_logits(sample)) look(samples.rows.data()[sample]);
        for (size_t score = 0; score < score_rows.size(); ++score) look(score_rows.data()[score]);
        int64_t num_wanted = 0;
        for (int64_t place = 0; place < count; ++place)
            if (wanted_[size_t(place)]) wanted_[size_t(num_wanted++)] = int32_t(place);
        likeliest_.resize(size_t(count));
        float* logits = logits_.reserve<float>(num_wanted * vocab_size);
        const RowBlock rows{begin, count, wanted_.data(), num_wanted, logits, likeliest_.data()};
        compute(rows);
        Block block{*this, row_ids, rows, samples, asked.uniforms, outputs, vocab_size, {}};
        block.run(score_rows, asked.score_token_ids);
    }
}

void Sampler::read(const In<float, 2>& logits, const RowBlock& block) {
    const auto vocab_size = int64_t(logits.shape(1));
    const float* from = logits.data() + block.begin * vocab_size;
    void* scratch = scratch_[0].reserve<char>(kernels_.sampling_scratch(vocab_size));
    for (int64_t row = 0; row < block.num_rows; ++row)
        block.likeliest[row] = int32_t(kernels_.draw({from + row * vocab_size, vocab_size, nullptr}, {}, scratch));
    for (int64_t i = 0; i < block.num_wanted; ++i)
        std::copy_n(from + block.wanted[i] * vocab_size, vocab_size, block.logits + i * vocab_size);
}

void sample_decoded(Sampler& sampler, Decoder& decoder, In<float, 2> hidden, In<int32_t, 1> rows, nb::handle sampling,
                    In<double, 1> uniforms, In<int32_t, 1> score_rows, In<int32_t, 1> score_token_ids,
                    nb::handle output) {
    const int64_t width = decoder.shape().hidden;
    require(hidden.shape(0) == rows.size() && int64_t(hidden.shape(1)) == width,
            "hidden must be [rows, hidden size]");
    sampler.sample({rows, sampling, uniforms, score_rows, score_token_ids, output}, decoder.shape().vocab,
                   [&](const RowBlock& block) {
                       decoder.logits(hidden.data() + block.begin * width, block.num_rows, block.wanted,
                                      block.num_wanted, block.logits, block.likeliest);
                   });
}

void sample_given(Sampler& sampler, In<float, 2> logits, In<int32_t, 1> rows, nb::handle sampling,
                  In<double, 1> uniforms, In<int32_t, 1> score_rows, In<int32_t, 1> score_token_ids,
                  nb::handle output) {
    require(logits.shape(0) == rows.size(), "logits must have one row for each of the rows");
    sampler.sample({rows, sampling, uniforms, score_rows, score_token_ids, output}, int64_t(logits.shape(1)),
                   [&](const RowBlock& block) { sampler.read(logits, block); });
}

}  // namespace

void bind_sampling(nb::module_& module) {
    nb::class_<Sampler>(module, "Sampler")
        .def(nb::new_([](std::shared_ptr<Team> team, const std::string& isa, int64_t block_bytes) {
                 const Kernels* kernels = kernels_of(isa);
                 require(kernels != nullptr, "this CPU or this build lacks that instruction set");
                 return std::make_shared<Sampler>(std::move(team), *kernels, block_bytes);
             }),
             nb::arg("team"), nb::arg("isa"), nb::arg("block_bytes"))
        .def("sample", &sample_decoded, nb::arg("decoder"), nb::arg("hidden").noconvert(), nb::arg("rows").noconvert(),
             nb::arg("sampling"), nb::arg("uniforms").noconvert(), nb::arg("score_rows").noconvert(),
             nb::arg("score_token_ids").noconvert(), nb::arg("output"))
        .def("sample_logits", &sample_given, nb::arg("logits").noconvert(), nb::arg("rows").noconvert(),
             nb::arg("sampling"), nb::arg("uniforms").noconvert(), nb::arg("score_rows").noconvert(),
             nb::arg("score_token_ids").noconvert(), nb::arg("output"));
}

}  // namespace ramet
