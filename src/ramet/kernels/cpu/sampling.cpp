// Logits in; tokens, logprobs and scores out: the native half of ramet.runner.native_sampler.
//
// Invariant: what a sample gets depends on its row of logits and its own parameters alone. Each row is summed up
// once and each sample drawn by one thread, always in the same order of operations.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "dispatch.h"
#include "memory.h"
#include "sampling_arrays.h"
#include "threads.h"

namespace ramet {

namespace {

class Sampler {
public:
    Sampler(std::shared_ptr<Team> team, const Kernels& kernels)
        : team_(std::move(team)), kernels_(kernels), scratch_(size_t(team_->size())), changed_(scratch_.size()) {}

    void sample(In<float, 2> logits, In<int32_t, 1> row_ids, nb::handle sampling, In<double, 1> uniforms,
                In<int32_t, 1> score_rows, In<int32_t, 1> score_token_ids, nb::handle output);

private:
    // What is known of a row of logits once it has been read.
    struct Row {
        bool needs_peak = false, needs_total = false;
        Peak peak{NAN, -1};
        double log_total = NAN;  // log of the sum of exp(logit)
    };
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
        team_->run([&](int thread) { team_->share(int64_t(count), [&](int64_t i) { body(size_t(i), thread); }); });
    }

    std::shared_ptr<Team> team_;
    const Kernels& kernels_;
    std::mutex mutex_;
    std::vector<Buffer> scratch_, changed_;  // of each thread
};

// One call: some rows of logits and those samples and scores that read them.
struct Sampler::Block {
    Sampler& sampler;
    const In<float, 2>& logits;
    const In<int32_t, 1>& row_ids;  // ascending
    const Samples& samples;
    const Outputs& outputs;
    const int64_t vocab_size;
    std::vector<Row> rows;
    std::vector<size_t> used;  // rows that something is asked of

    const float* row_logits(int64_t row) const { return logits.data() + row * vocab_size; }

    // The place of a row in `logits`; -1 if it is not there.
    int64_t find_row(int32_t id) const {
        const int32_t *begin = row_ids.data(), *end = begin + row_ids.size();
        const int32_t* at = std::lower_bound(begin, end, id);
        return at != end && *at == id ? at - begin : -1;
    }

    bool is_plain_greedy(size_t sample) const {
        return !(samples.temperature.data()[sample] > 0) && !samples.masked && !samples.changed(sample);
    }

    void run(const In<int32_t, 1>& score_rows, const In<int32_t, 1>& score_token_ids) {
        rows.resize(row_ids.size());
        std::vector<Job> quick, slow, scores;
        bool any_changed = false;
        for (size_t sample = 0; sample < samples.rows.size(); ++sample) {
            const int64_t row = find_row(samples.rows.data()[sample]);
            if (row < 0) continue;
            const bool plain = is_plain_greedy(sample);
            const int32_t num_top = samples.num_top.data()[sample];
            any_changed |= samples.changed(sample);
            rows[size_t(row)].needs_peak |= plain || num_top >= 0;
            rows[size_t(row)].needs_total |= num_top >= 0;
            (plain && num_top <= 0 ? quick : slow).push_back({sample, row});
        }
        for (size_t score = 0; score < score_rows.size(); ++score) {
            const int64_t row = find_row(score_rows.data()[score]);
            if (row < 0) continue;
            rows[size_t(row)].needs_peak = rows[size_t(row)].needs_total = true;
            scores.push_back({score, row});
        }
        for (size_t row = 0; row < rows.size(); ++row)
            if (rows[row].needs_peak) used.push_back(row);
        for (Buffer& buffer : sampler.scratch_) buffer.reserve<char>(sampler.kernels_.sampling_scratch(vocab_size));
        if (any_changed)
            for (Buffer& buffer : sampler.changed_) buffer.reserve<float>(vocab_size);

        sampler.for_each(used.size(), [&](size_t i, int thread) { read_row(used[i], thread); });
        sampler.for_each(slow.size(), [&](size_t i, int thread) { finish(slow[i], thread); });
        for (const Job& job : quick) finish(job, 0);
        for (const Job& score : scores)
            outputs.score_logprobs.data()[score.sample] =
                logprob(score.row, score_token_ids.data()[score.sample]);
    }

    void read_row(size_t index, int thread) {
        Row& row = rows[index];
        const LogitsView view{row_logits(int64_t(index)), vocab_size, nullptr};
        row.peak = sampler.kernels_.find_peak(view, sampler.scratch_[size_t(thread)].as<void>());
        if (row.needs_total && row.peak.first >= 0)
            row.log_total =
                double(row.peak.value) + std::log(sampler.kernels_.sum_weights(view, row.peak.value));
    }

    float logprob(int64_t row, int64_t token) const {
        return float(double(row_logits(row)[token]) - rows[size_t(row)].log_total);
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
                       samples.min_p.data()[sample], samples.uniforms.data()[sample]};
        return sampler.kernels_.draw({from, vocab_size, allowed}, how, sampler.scratch_[size_t(thread)].as<void>());
    }

    void finish(const Job& job, int thread) const {
        const size_t sample = job.sample, first_top = sample * outputs.max_top;
        const Row& row = rows[size_t(job.row)];
        const int64_t token = is_plain_greedy(sample) ? row.peak.first : draw(job, thread);
        outputs.token_ids.data()[sample] = int32_t(token);
        outputs.logprobs.data()[sample] = NAN;
        int32_t* top_ids = outputs.top_token_ids.data() + first_top;
        float* top_logprobs = outputs.top_logprobs.data() + first_top;
        std::fill_n(top_ids, outputs.max_top, 0);
        std::fill_n(top_logprobs, outputs.max_top, -INFINITY);
        const int32_t num_top = samples.num_top.data()[sample];
        if (token < 0 || num_top < 0) return;
        outputs.logprobs.data()[sample] = logprob(job.row, token);
        if (num_top == 0) return;
        const int64_t count = std::min<int64_t>(num_top, vocab_size);
        if (row.peak.first < 0) {  // a bitmask hid what is not finite from the draw only
            std::fill_n(top_logprobs, count, NAN);
            return;
        }
        sampler.kernels_.find_top({row_logits(job.row), vocab_size, nullptr}, count, top_ids,
                                  sampler.scratch_[size_t(thread)].as<void>());
        for (int64_t i = 0; i < count; ++i) top_logprobs[i] = logprob(job.row, top_ids[i]);
    }
};

void Sampler::sample(In<float, 2> logits, In<int32_t, 1> row_ids, nb::handle sampling, In<double, 1> uniforms,
                     In<int32_t, 1> score_rows, In<int32_t, 1> score_token_ids, nb::handle output) {
    const auto vocab_size = int64_t(logits.shape(1));
    require(row_ids.size() == logits.shape(0), "row_ids must name every row of the logits");
    require(score_rows.size() == score_token_ids.size(), "score_rows and score_token_ids differ in length");
    require(vocab_size > 0 && vocab_size <= INT32_MAX, "logits must have a column per token");
    require_below(score_token_ids, vocab_size, "scored token");
    const Samples samples(sampling, std::move(uniforms), vocab_size);
    const Outputs outputs(output, samples, score_rows.size());
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> one_caller(mutex_);
    Block block{*this, logits, row_ids, samples, outputs, vocab_size, {}, {}};
    block.run(score_rows, score_token_ids);
}

}  // namespace

void bind_sampling(nb::module_& module) {
    nb::class_<Sampler>(module, "Sampler")
        .def(nb::new_([](std::shared_ptr<Team> team, const std::string& isa) {
                 const Kernels* kernels = kernels_of(isa);
                 require(kernels != nullptr, "this CPU or this build lacks that instruction set");
                 return std::make_shared<Sampler>(std::move(team), *kernels);
             }),
             nb::arg("team"), nb::arg("isa"))
        .def("sample", &Sampler::sample, nb::arg("logits").noconvert(), nb::arg("rows").noconvert(), nb::arg("sampling"),
             nb::arg("uniforms").noconvert(), nb::arg("score_rows").noconvert(), nb::arg("score_token_ids").noconvert(), nb::arg("output"));
}

}  // namespace ramet
