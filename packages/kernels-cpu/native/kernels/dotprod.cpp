// NEON with dot products of signed bytes (FEAT_DotProd): Cortex-A75 and A76, Neoverse N1, Apple M1 and later.
#include "neon.h"

namespace lowbit {
namespace {

struct V : Neon {
  static constexpr bool kSigned = true;

  ALWAYS_INLINE Ints dot_signed(Ints sum, Bytes codes, int32_t a) {
    const int8x16_t four_inputs = vreinterpretq_s8_s32(vdupq_n_s32(a));
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA { return vdotq_s32(sum.v[i], vreinterpretq_s8_u8(codes.v[i]), four_inputs); });
  }
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    static_assert(!WIDE, "wide bytes go to dot_signed");
    return dot_signed(sum, codes, a);
  }
};

#include "tiles.h"
#include "pairs.h"
#include "panels.h"
#include "hadamard.h"
#include "rows.h"
#include "quantize.h"
#include "attention.h"
#include "groups.h"
#include "table.h"

}  // namespace

const Kernels* dotprod_kernels() {
  static const Kernels kernels = make_kernels(Isa::dotprod);
  return &kernels;
}

}  // namespace lowbit
