#include "threads.h"

#include <chrono>
#include <stdexcept>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace ramet {

namespace {

// A thread spins before it offers its core to others. Between steps it then watches on, whenever nobody else wants the
// core, for as long as Python takes to prepare the next step: in a virtual machine it takes long to be woken.
constexpr auto SPIN_IN_STEP = std::chrono::microseconds(200);
constexpr auto SPIN_BETWEEN_STEPS = std::chrono::microseconds(50);
constexpr auto WATCH_BETWEEN_STEPS = std::chrono::microseconds(1000);

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

long current_process() {
#if defined(__unix__) || defined(__APPLE__)
    return long(getpid());
#else
    return 0;  // no fork
#endif
}

template <class Done>
bool spin(std::chrono::microseconds limit, const Done& done) {
    const auto end = std::chrono::steady_clock::now() + limit;
    do {
        for (int i = 0; i < 64; ++i) {
            if (done()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return done();
}

template <class Done>
bool watch(std::chrono::microseconds limit, const Done& done) {
    const auto end = std::chrono::steady_clock::now() + limit;
    do {
        if (done()) return true;
        std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < end);
    return done();
}

}  // namespace

Team::Team(int num_threads)
    : size_(num_threads < 1 ? 1 : num_threads),
      arrivals_(size_t(size_)),
      tasks_(size_t(size_)),
      sleepers_(new Sleepers),
      process_(current_process()) {
    try {
        for (int thread = 1; thread < size_; ++thread)
            sleepers_->threads.emplace_back([this, thread] { work(thread); });
    } catch (...) {  // the system gives no more threads: those that run must end before the error goes on
        stop();
        throw;
    }
}

Team::~Team() { stop(); }

void Team::stop() {
    if (current_process() != process_) {
        (void)sleepers_.release();
        return;
    }
    {
        std::lock_guard<std::mutex> lock(sleepers_->mutex);
        stopping_ = true;
    }
    sleepers_->wake.notify_all();
    for (auto& thread : sleepers_->threads) thread.join();
}

void Team::run(const std::function<void(int)>& body) {
    if (current_process() != process_)
        throw std::runtime_error("kernels were set up before this process was forked; set them up in the child");
    std::lock_guard<std::mutex> one_caller(callers_);
    if (size_ == 1) {
        body(0);
        return;
    }
    body_ = &body;
    running_ = size_ - 1;
    {
        std::lock_guard<std::mutex> lock(sleepers_->mutex);
        step_.fetch_add(1, std::memory_order_release);
    }
    sleepers_->wake.notify_all();
    body(0);
    while (!spin(SPIN_IN_STEP, [&] { return running_.load(std::memory_order_acquire) == 0; }))
        std::this_thread::yield();
}

void Team::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        auto called = [&] { return stopping_ || step_.load(std::memory_order_acquire) != seen; };
        if (!spin(SPIN_BETWEEN_STEPS, called) && !watch(WATCH_BETWEEN_STEPS, called)) {
            std::unique_lock<std::mutex> lock(sleepers_->mutex);
            sleepers_->wake.wait(lock, called);
        }
        if (stopping_) return;
        ++seen;
        (*body_)(thread);
        running_.fetch_sub(1, std::memory_order_release);
    }
}

void Team::keep_waiting_for(const std::atomic<uint32_t>& count, uint32_t arrived) {
    auto passed = [&] { return int32_t(count.load(std::memory_order_acquire) - arrived) >= 0; };
    while (!spin(SPIN_IN_STEP, passed)) std::this_thread::yield();
}

}  // namespace ramet
