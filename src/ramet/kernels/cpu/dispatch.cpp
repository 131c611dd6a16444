#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ramet {

// Defined by isa.cpp, once per instruction set.
#define RAMET_DECLARE(isa) \
    namespace isa {        \
    extern const Kernels kernels; \
    }
RAMET_DECLARE(baseline)
#if defined(RAMET_HAS_AVX2)
RAMET_DECLARE(avx2)
#endif
#if defined(RAMET_HAS_AVX2_VNNI)
RAMET_DECLARE(avx2_vnni)
#endif
#if defined(RAMET_HAS_AVX512)
RAMET_DECLARE(avx512)
#endif
#if defined(RAMET_HAS_AVX512_BF16)
RAMET_DECLARE(avx512_bf16)
#endif
#if defined(RAMET_HAS_DOTPROD)
RAMET_DECLARE(dotprod)
#endif

namespace {

#if defined(__x86_64__)
// Asked of the CPU itself: compilers learnt the name late.
[[maybe_unused]] bool has_avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

struct Candidate {
    const Kernels* kernels;
    bool supported;
};

std::vector<Candidate> candidates() {
    std::vector<Candidate> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    [[maybe_unused]] const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                                           __builtin_cpu_supports("bmi2");  // and f16c, which is older than avx2
    [[maybe_unused]] const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#endif
#if defined(RAMET_HAS_AVX512_BF16)
    found.push_back({&avx512_bf16::kernels, has_avx512 && __builtin_cpu_supports("avx512bf16")});
#endif
#if defined(RAMET_HAS_AVX512)
    found.push_back({&avx512::kernels, has_avx512});
#endif
#if defined(RAMET_HAS_AVX2_VNNI)
    found.push_back({&avx2_vnni::kernels, has_avx2 && has_avx_vnni()});
#endif
#if defined(RAMET_HAS_AVX2)
    found.push_back({&avx2::kernels, has_avx2});
#endif
#if defined(RAMET_HAS_DOTPROD)
#if defined(__linux__)
    constexpr unsigned long HWCAP_DOTPROD = 1ul << 20;
    found.push_back({&dotprod::kernels, (getauxval(AT_HWCAP) & HWCAP_DOTPROD) != 0});
#elif defined(__APPLE__)
    found.push_back({&dotprod::kernels, true});  // every Apple processor of this architecture has it
#endif
#endif
    found.push_back({&baseline::kernels, true});
    return found;
}

}  // namespace

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const auto& candidate : candidates()) names.push_back(candidate.kernels->name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const auto& candidate : candidates())
        if (candidate.supported) names.push_back(candidate.kernels->name);
    return names;
}

const Kernels* kernels_of(const std::string& isa) {
    for (const auto& candidate : candidates())
        if (candidate.supported && candidate.kernels->name == isa) return candidate.kernels;
    return nullptr;
}

}  // namespace ramet
