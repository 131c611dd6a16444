// A team of threads that walks through the phases of a step together.
//
// The whole team enters a step once (`run`), and every thread executes the same code. Inside, `share` deals out the
// tasks of a phase; a thread that is done takes what others have left, so that a core that is slower or busy elsewhere
// takes fewer. `sync` waits for the others. Waiting spins, for phases take microseconds; an idle team sleeps.
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

    // Calls body(task) for 0 <= task < count, each on one of the threads. A thread takes every size()-th, in order, so that
    // each gets some of the first; then what others have left of theirs. All threads call it, each with its number, and
    // wait for each other (`sync`) before they share again.
    template <class Body>
    void share(int thread, int64_t count, const Body& body) {
        take_all(
            thread, [&](int whose) { return (count - whose + size_ - 1) / size_; },
            [&](int whose, int64_t i) { body(i * size_ + whose); });
    }

    // Like `share`, but a thread's tasks are neighbours. Calls body(task, next), `next` being what it will probably take
    // after this; `count` at the end.
    template <class Body>
    void share_stretches(int thread, int64_t count, const Body& body) {
        take_all(
            thread, [&](int whose) { return stretch_begin(whose + 1, count) - stretch_begin(whose, count); },
            [&](int whose, int64_t i) {
                const int64_t task = stretch_begin(whose, count) + i;
                body(task, task + 1 < stretch_begin(whose + 1, count) ? task + 1 : count);
            });
    }
    // The first of `count` tasks that `share_stretches` gives a thread.
    int64_t stretch_begin(int thread, int64_t count) const { return count * thread / size_; }

    // Waits for all threads. Each counts in a line of memory of its own and looks at those of the others: a line that all
    // write would travel from core to core and back.
    void sync(int thread) {
        const uint32_t arrived = arrive(thread);
        for (int i = 1; i < size_; ++i) wait_for((thread + i) % size_, arrived);
    }
    // The same, but when all have arrived, the first thread calls `alone` before any goes on.
    template <class Alone>
    void sync(int thread, const Alone& alone) {
        if (thread == 0) {
            const uint32_t arrived = arrivals_[0].count.load(std::memory_order_relaxed) + 1;
            for (int i = 1; i < size_; ++i) wait_for(i, arrived);
            alone();
            arrive(0);
        } else {
            wait_for(0, arrive(thread));
        }
    }

private:
    // Calls body(whose, i) for 0 <= i < count_of(whose) of this thread, then of the others.
    template <class CountOf, class Body>
    void take_all(int thread, const CountOf& count_of, const Body& body) {
        // Others take of this thread's tasks until the phase ends. So there are two counters, used in turn, and each is
        // set back while the other is in use.
        const int turn = tasks_[size_t(thread)].turn ^= 1;
        tasks_[size_t(thread)].taken[turn ^ 1].store(0, std::memory_order_relaxed);
        for (int i = 0; i < size_; ++i) {
            const int whose = (thread + i) % size_;
            const int64_t count = count_of(whose);
            std::atomic<int64_t>& taken = tasks_[size_t(whose)].taken[turn];
            int64_t task = count > 0 ? taken.load(std::memory_order_relaxed) : count;
            while (task < count) {
                task = taken.fetch_add(1, std::memory_order_relaxed);
                if (task < count) body(whose, task);
            }
        }
    }

    uint32_t arrive(int thread) {
        std::atomic<uint32_t>& count = arrivals_[size_t(thread)].count;
        const uint32_t arrived = count.load(std::memory_order_relaxed) + 1;
        count.store(arrived, std::memory_order_release);
        return arrived;
    }
    // Until the thread has arrived as often.
    void wait_for(int thread, uint32_t arrived) {
        const std::atomic<uint32_t>& count = arrivals_[size_t(thread)].count;
        if (int32_t(count.load(std::memory_order_acquire) - arrived) < 0) keep_waiting_for(count, arrived);
    }
    static void keep_waiting_for(const std::atomic<uint32_t>& count, uint32_t arrived);

    void work(int thread);
    void stop();

    const int size_;
    struct alignas(64) Arrivals {
        std::atomic<uint32_t> count{0};
    };
    struct alignas(64) Tasks {
        std::atomic<int64_t> taken[2] = {};
        int turn = 0;
    };
    std::vector<Arrivals> arrivals_;  // of each thread
    std::vector<Tasks> tasks_;
    alignas(64) std::atomic<uint32_t> step_{0};
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
