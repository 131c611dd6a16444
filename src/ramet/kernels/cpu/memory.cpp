#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
// The exact size from malloc, so that the sanitizer sees a step beyond its end
#elif defined(__unix__) || defined(__APPLE__)
#define RAMET_MAPS_MEMORY 1
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace ramet {

namespace {

void* obtain(size_t bytes) {
#if defined(RAMET_MAPS_MEMORY)
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    // Only a wish: weights are streamed, and small pages would cost a miss of the TLB every 4 KB
    constexpr size_t huge_page = size_t(2) << 20;
    if (bytes >= huge_page) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
#else
#if defined(_WIN32)
    void* data = _aligned_malloc(bytes, 64);
#else
    void* data = nullptr;
    if (posix_memalign(&data, 64, bytes) != 0) data = nullptr;
#endif
    if (data) std::memset(data, 0, bytes);
    return data;
#endif
}

void give_back(void* data, [[maybe_unused]] size_t bytes) {
#if defined(RAMET_MAPS_MEMORY)
    munmap(data, bytes);
#elif defined(_WIN32)
    _aligned_free(data);
#else
    std::free(data);
#endif
}

}  // namespace

Buffer::Buffer(size_t bytes) {
    if (bytes == 0) return;
    data_ = obtain(bytes);
    if (!data_) throw std::bad_alloc();
    size_ = bytes;
}

Buffer::~Buffer() {
    if (data_) give_back(data_, size_);
}

bool Buffer::populate([[maybe_unused]] size_t begin, [[maybe_unused]] size_t bytes) const {
#if defined(RAMET_MAPS_MEMORY) && defined(MADV_POPULATE_WRITE)
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t end = begin + bytes < size_ ? begin + bytes : size_;
    begin = begin / page * page;
    return begin < end && madvise(as<char>() + begin, end - begin, MADV_POPULATE_WRITE) == 0;
#else
    return false;
#endif
}

uint8_t* Arena::take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    std::lock_guard<std::mutex> one_taker(mutex_);
    if (bytes > piece_bytes_ / 4) {  // large by itself; the open piece stays the last
        pieces_.insert(pieces_.begin(), Buffer(bytes));
        return pieces_.front().as<uint8_t>();
    }
    if (pieces_.empty() || bytes > pieces_.back().size() - used_) {
        pieces_.emplace_back(piece_bytes_);
        used_ = 0;
    }
    uint8_t* taken = pieces_.back().as<uint8_t>() + used_;
    used_ += bytes;
    return taken;
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}  // namespace ramet
