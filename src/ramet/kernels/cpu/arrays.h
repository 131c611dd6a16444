// NumPy arrays as the bindings take and give them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

namespace ramet {

namespace nb = nanobind;

template <class T, int Dims>
using In = nb::ndarray<const T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
template <class T, int Dims>
using InOut = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;

inline void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

// Every value lies in 0 .. limit - 1.
inline void require_below(const In<int32_t, 1>& values, int64_t limit, const char* name) {
    for (size_t i = 0; i < values.size(); ++i)
        if (values.data()[i] < 0 || values.data()[i] >= limit)
            throw std::invalid_argument(std::string(name) + " " + std::to_string(values.data()[i]) +
                                        " is not in 0.." + std::to_string(limit - 1));
}

// In ascending order, each once.
inline void require_ascending(const In<int32_t, 1>& rows, const char* message) {
    const int32_t* const end = rows.data() + rows.size();
    require(std::adjacent_find(rows.data(), end, std::greater_equal<int32_t>()) == end, message);
}

}  // namespace ramet
