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

    int64_t find_wanted(In<int32_t, 1> row_ids, nb::handle sampling, In<int32_t, 1> score_rows,
                        InOut<int32_t, 1> wanted) const;
    void sample(In<int32_t, 1> row_ids, In<int32_t, 1> likeliest, In<int32_t, 1> wanted, In<float, 2> logits,
                nb::handle sampling, In<double, 1> uniforms, In<int32_t, 1> score_rows,
                In<int32_t, 1> score_token_ids, nb::handle output);

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
        team_->run([&](int thread) { team_->share(int64_t(count), [&](int64_t i) { body(size_t(i), thread); }); });
    }

    std::shared_ptr<Team> team_;
    const Kernels& kernels_;
    std::mutex mutex_;
    std::vector<Buffer> scratch_, changed_;  // of each thread
};

// The place of a number among ascending ones; -1 if it is not there.
int64_t find(const In<int32_t, 1>& ascending, int64_t number) {
    const int32_t *begin = ascending.data(), *end = begin + ascending.size();
    const int32_t* at = std::lower_bound(begin, end, number);
    return at != end && *at == number ? at - begin : -1;
}

// Some rows, and those samples and scores that belong to them.
struct Sampler::Block {
    Sampler& sampler;
    const In<int32_t, 1>& row_ids;    // ascending
    const In<int32_t, 1>& likeliest;  // of each
    const In<int32_t, 1>& wanted;     // places of the rows whose logits are here, ascending
    const In<float, 2>& logits;
    const Samples& samples;
    const In<double, 1>& uniforms;
    const Outputs& outputs;
    const int64_t vocab_size;
    std::vector<double> log_totals;  // of the rows of logits that need it: log of the sum of exp(logit)

    const float* row_logits(int64_t row) const { return logits.data() + row * vocab_size; }
    int64_t likeliest_of(int64_t row) const { return likeliest.data()[wanted.data()[row]]; }

    // The row of logits of a place among the rows.
    int64_t find_logits(int64_t place) const {
        const int64_t row = find(wanted, place);
        require(row >= 0, "a row that is looked at has no logits");
        return row;
    }

    void run(const In<int32_t, 1>& score_rows, const In<int32_t, 1>& score_token_ids) {
        log_totals.resize(wanted.size(), NAN);
        std::vector<uint8_t> needs_total(wanted.size());
        std::vector<Job> quick, slow, scores;
        bool any_changed = false;
        for (size_t sample = 0; sample < samples.rows.size(); ++sample) {
            const int64_t place = find(row_ids, samples.rows.data()[sample]);
            if (place < 0) continue;
            if (samples.wants_no_logits(sample)) {
                put(sample, likeliest.data()[place]);
                continue;
            }
            const int64_t row = find_logits(place);
            const int32_t num_top = samples.num_top.data()[sample];
            any_changed |= samples.changed(sample);
            needs_total[size_t(row)] |= num_top >= 0;
            (samples.is_greedy(sample) && num_top == 0 ? quick : slow).push_back({sample, row});
        }
        for (size_t score = 0; score < score_rows.size(); ++score) {
            const int64_t place = find(row_ids, score_rows.data()[score]);
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

// Writes the places of the rows whose logits somebody looks at, and returns how many they are.
int64_t Sampler::find_wanted(In<int32_t, 1> row_ids, nb::handle sampling, In<int32_t, 1> score_rows,
                             InOut<int32_t, 1> wanted) const {
    require(wanted.size() == row_ids.size(), "wanted must have room for every row");
    const Samples samples(sampling);
    std::fill_n(wanted.data(), wanted.size(), 0);
    auto look = [&](int32_t id) {
        const int64_t place = find(row_ids, id);
        if (place >= 0) wanted.data()[place] = 1;
    };
    for (size_t sample = 0; sample < samples.rows.size(); ++sample)
        if (!samples.wants_no_logits(sample)) look(samples.rows.data()[sample]);
    for (size_t score = 0; score < score_rows.size(); ++score) look(score_rows.data()[score]);
    int64_t count = 0;
    for (size_t place = 0; place < wanted.size(); ++place)
        if (wanted.data()[place]) wanted.data()[count++] = int32_t(place);
    return count;
}

void Sampler::sample(In<int32_t, 1> row_ids, In<int32_t, 1> likeliest, In<int32_t, 1> wanted, In<float, 2> logits,
                     nb::handle sampling, In<double, 1> uniforms, In<int32_t, 1> score_rows,
                     In<int32_t, 1> score_token_ids, nb::handle output) {
    const auto vocab_size = int64_t(logits.shape(1));
    require(likeliest.size() == row_ids.size(), "likeliest must have one token per row");
    require(wanted.size() == logits.shape(0), "wanted must name every row of the logits");
    require_below(wanted, int64_t(row_ids.size()), "wanted row");
    require(score_rows.size() == score_token_ids.size(), "score_rows and score_token_ids differ in length");
    require(vocab_size > 0 && vocab_size <= INT32_MAX, "logits must have a column per token");
    require_below(score_token_ids, vocab_size, "scored token");
    for (size_t row = 0; row < likeliest.size(); ++row)
        require(likeliest.data()[row] >= -1 && likeliest.data()[row] < vocab_size, "a likeliest token is no token");
    const Samples samples(sampling);
    samples.check_tokens(vocab_size);
    require(uniforms.size() == samples.rows.size(), "uniforms must have one value per sample");
    const Outputs outputs(output, samples, score_rows.size());
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> one_caller(mutex_);
    Block block{*this, row_ids, likeliest, wanted, logits, samples, uniforms, outputs, vocab_size, {}};
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
        .def("find_wanted", &Sampler::find_wanted, nb::arg("rows").noconvert(), nb::arg("sampling"),
             nb::arg("score_rows").noconvert(), nb::arg("wanted").noconvert())
        .def("sample", &Sampler::sample, nb::arg("rows").noconvert(), nb::arg("likeliest").noconvert(),
             nb::arg("wanted").noconvert(), nb::arg("logits").noconvert(), nb::arg("sampling"),
             nb::arg("uniforms").noconvert(), nb::arg("score_rows").noconvert(), nb::arg("score_token_ids").noconvert(), nb::arg("output"));
}

}  // namespace ramet
