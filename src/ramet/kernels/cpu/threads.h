// A team of threads that walks through the phases of a step together.
//
// The whole team enters a step once (`run`), and every thread executes the same code. Inside, `share` hands out
// the tasks of a phase one by one, so that a core that is slower or busy elsewhere takes fewer, and `sync`
// waits for the others. Waiting spins, for phases take microseconds; an idle team sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace ramet {

class Team {
public:
    explicit Team(int num_threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Calls body(thread) on every thread, 0 being the caller, and returns when all have. One call at a time:
    // a second caller waits. Throws std::runtime_error in a child of fork, where the threads are not.
    void run(const std::function<void(int)>& body);

    // Calls body(task) for 0 <= task < count, each on one of the threads.
    template <class Body>
    void share(int64_t count, const Body& body) {
        if (size_ == 1) {
            for (int64_t task = 0; task < count; ++task) body(task);
            return;
        }
        for (;;) {
            int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
            if (task >= count) return;
            body(task);
        }
    }

    // Like `share`, but a thread takes neighbouring tasks: those of its own stretch in order, then what others have
    // left of theirs. Calls body(task, next), `next` being what it will probably take after this; `count` at the end.
    // All threads call it, each with its number, and wait for each other (`sync`) before they do so again.
    template <class Body>
    void share_stretches(int thread, int64_t count, const Body& body) {
        // Others count in this thread's stretch until the phase ends. So there are two counters, used in turn, and each
        // is set back while the other is in use.
        const int turn = stretches_[size_t(thread)].turn ^= 1;
        stretches_[size_t(thread)].taken[turn ^ 1].store(0, std::memory_order_relaxed);
        for (int i = 0; i < size_; ++i) {
            const int whose = (thread + i) % size_;
            std::atomic<int64_t>& taken = stretches_[size_t(whose)].taken[turn];
            const int64_t end = stretch_begin(whose + 1, count);
            if (stretch_begin(whose, count) == end) continue;
            int64_t task = stretch_begin(whose, count) + taken.load(std::memory_order_relaxed);
            while (task < end) {
                task = stretch_begin(whose, count) + taken.fetch_add(1, std::memory_order_relaxed);
                if (task < end) body(task, task + 1 < end ? task + 1 : count);
            }
        }
    }
    // The first of `count` tasks that `share_stretches` gives a thread.
    int64_t stretch_begin(int thread, int64_t count) const { return count * thread / size_; }

    // Waits for all threads. The last to arrive calls `alone` before any goes on.
    template <class Alone>
    void sync(const Alone& alone) {
        if (size_ == 1) {
            alone();
            return;
        }
        const uint32_t generation = generation_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            alone();
            generation_.store(generation + 1, std::memory_order_release);
        } else {
            wait_for_generation(generation);
        }
    }
    void sync() {
        sync([] {});
    }

private:
    void work(int thread);
    void stop();
    void wait_for_generation(uint32_t old);

    const int size_;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<uint32_t> step_{0};
    struct alignas(64) Stretch {
        std::atomic<int64_t> taken[2] = {};
        int turn = 0;
    };
    std::vector<Stretch> stretches_;
    std::atomic<int> running_{0};
    std::atomic<bool> stopping_{false};
    const std::function<void(int)>* body_ = nullptr;
    std::mutex callers_;
    struct Sleepers {
        std::mutex mutex;
        std::condition_variable wake;
        std::vector<std::thread> threads;
    };
    std::unique_ptr<Sleepers> sleepers_;  // given up, not destroyed, in a child of fork: it has no such threads
    const long process_;
};

}  // namespace ramet
