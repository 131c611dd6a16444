// Compiled once per instruction set, with RAMET_ISA set to its name. Nothing but the table leaves this file.
#include "attention.h"
#include "linear.h"
#include "rowwise.h"
#include "sampling.h"

#define RAMET_STRING_OF(name) #name
#define RAMET_STRING(name) RAMET_STRING_OF(name)

namespace ramet {
namespace RAMET_ISA {

#if defined(RAMET_NATIVE_BF16)
constexpr bool NATIVE_BF16 = true;
#else
constexpr bool NATIVE_BF16 = false;
#endif

extern const Kernels kernels;
const Kernels kernels = {
    RAMET_STRING(RAMET_ISA), NATIVE_BF16, matmul, rms_norm, convert,
    silu_multiply, embed, rope, write_kv, attend, attend_scratch, merge,
    update_maxima, sum_weights, draw, find_top, sampling_scratch,
};

}  // namespace RAMET_ISA
}  // namespace ramet
