// NEON as every arm64 has it: products of bytes in 16 bits, added by pairs.
#include "neon.h"

namespace lowbit {
namespace {

struct V : Neon {
  static constexpr bool kSigned = true;

  /// Codes below 128: two products fit 16 bits.
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    static_assert(!WIDE, "wide bytes go to dot_signed");
    const int8x16_t four_inputs = vreinterpretq_s8_s32(vdupq_n_s32(a));
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA {
      const int8x16_t q = vreinterpretq_s8_u8(codes.v[i]);
      const int16x8_t low = vmull_s8(vget_low_s8(q), vget_low_s8(four_inputs));
      return vpadalq_s16(sum.v[i], vpaddq_s16(low, vmull_high_s8(q, four_inputs)));
    });
  }
  /// All signed bytes: -128 * -128 * 2 does not fit.
  ALWAYS_INLINE Ints dot_signed(Ints sum, Bytes codes, int32_t a) {
    const int8x16_t four_inputs = vreinterpretq_s8_s32(vdupq_n_s32(a));
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA {
      const int8x16_t q = vreinterpretq_s8_u8(codes.v[i]);
      const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(q), vget_low_s8(four_inputs)));
      return vaddq_s32(sum.v[i], vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(q, four_inputs))));
    });
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

const Kernels* neon_kernels() {
  static const Kernels kernels = make_kernels(Isa::neon);
  return &kernels;
}

}  // namespace lowbit
