// Memory that kernels work in: aligned, zeroed by the system and, where it helps, on huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ramet {

// Zeroed memory, aligned to 64 bytes. Large buffers are mapped, so a page costs nothing until it is touched.
// Throws std::bad_alloc.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t bytes);
    ~Buffer();
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }
    size_t size() const { return size_; }
    // Has the system back these bytes with memory now instead of when they are first touched; false if it cannot.
    bool populate(size_t begin, size_t bytes) const;
    // Room for so many; what was inside is lost when it grows.
    template <class T>
    T* reserve(int64_t count) {
        const size_t bytes = size_t(count) * sizeof(T);
        if (bytes > size_) {
            *this = Buffer();  // the old memory first: both at once may not fit
#if defined(__SANITIZE_ADDRESS__)
            *this = Buffer(bytes);
#else
            *this = Buffer(bytes + bytes / 4);
#endif
        }
        return as<T>();
    }

private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// Memory for things that live equally long, cut from pieces so large that the system can back them with large pages:
// the matrices of a small model are not. May be used by several threads.
class Arena {
public:
#if defined(__SANITIZE_ADDRESS__)
    static constexpr size_t LARGE = 0;  // so that it sees a step beyond an end
#else
    static constexpr size_t LARGE = size_t(64) << 20;
#endif
    // What is larger than a quarter of a piece gets its own memory.
    explicit Arena(size_t piece_bytes) : piece_bytes_(piece_bytes) {}
    // Zeroed, aligned to 64 bytes, there as long as the arena. Throws std::bad_alloc.
    uint8_t* take(size_t bytes);

private:
    const size_t piece_bytes_;
    std::mutex mutex_;
    std::vector<Buffer> pieces_;
    size_t used_ = 0;  // of the open piece, the last
};

}  // namespace ramet
