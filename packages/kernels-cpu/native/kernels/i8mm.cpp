// NEON with products of unsigned and signed bytes, and of matrices of them (FEAT_I8MM): Neoverse V1 and N2, Cortex-A510 and A710, Apple M2 and later.
#include "neon.h"

namespace lowbit {
namespace {

struct V : Neon {
  static constexpr bool kSigned = false;

  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    const int8x16_t four_inputs = vreinterpretq_s8_s32(vdupq_n_s32(a));
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA { return vusdotq_s32(sum.v[i], codes.v[i], four_inputs); });
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
#include "squares.h"

}  // namespace

const Kernels* i8mm_kernels() {
  static const Kernels kernels = with_squares(make_kernels(Isa::i8mm));
  return &kernels;
}

}  // namespace lowbit
