#include "memory.h"

#include <cstdlib>
#include <new>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace ramet {

namespace {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

void* map(size_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    // Only a wish: weights are streamed, and small pages would cost a miss of the TLB every 4 KB
    if (bytes >= HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
#else
    return std::calloc(bytes, 1);
#endif
}

}  // namespace

Buffer::Buffer(size_t bytes) {
    if (bytes == 0) return;
    data_ = map(bytes);
    if (!data_) throw std::bad_alloc();
    size_ = bytes;
}

Buffer::~Buffer() {
    if (!data_) return;
#if defined(__unix__) || defined(__APPLE__)
    munmap(data_, size_);
#else
    std::free(data_);
#endif
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}  // namespace ramet
