// The vectors of arm64, all but their dot products: a vector of 64 bytes is four registers. Each instruction set adds its dots, see neon.cpp.
#include <arm_neon.h>

#include "prelude.h"

namespace lowbit {
namespace {

struct Neon {
  struct Bytes {
    uint8x16_t v[4];
  };
  struct Ints {
    int32x4_t v[4];
  };
  struct Floats {
    float32x4_t v[4];
  };
  using Table = uint8x16_t;
  /// What is left of bytes moved right by N: their upper N bits are zero.
  template <int N>
  struct Moved : Bytes {};

  // Four registers are four chains, one after another, already; 24 sums leave room for codes, activations and a mask.
  static constexpr bool kChains = false;
  static constexpr bool kPairs = false;
  static constexpr int kMost[kMaxPlanes] = {6, 3, 2};
  static constexpr int kTableSums = 6;
  static constexpr int kDotTokens = 1;

  template <class R, class F>
  ALWAYS_INLINE R four(F f) {
    R r;
    r.v[0] = f(0);
    r.v[1] = f(1);
    r.v[2] = f(2);
    r.v[3] = f(3);
    return r;
  }
  ALWAYS_INLINE Bytes load(const uint8_t* p) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vld1q_u8(p + 16 * i); });
  }
  ALWAYS_INLINE Bytes mask(Bytes v, int byte) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vandq_u8(v.v[i], vdupq_n_u8(static_cast<uint8_t>(byte))); });
  }
  template <int N>
  ALWAYS_INLINE Bytes mask(Moved<N> v, int byte) {
    if (byte == 0xff >> N) return v;
    return mask(static_cast<Bytes>(v), byte);
  }
  ALWAYS_INLINE Bytes either(Bytes v, Bytes w) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vorrq_u8(v.v[i], w.v[i]); });
  }
  template <int N>
  ALWAYS_INLINE Moved<N> right(Bytes v) {
    if constexpr (N == 0) {
      return {v};
    } else {
      return four<Moved<N>>([&](int i) ALWAYS_INLINE_LAMBDA { return vshrq_n_u8(v.v[i], N); });
    }
  }
  template <int N>
  ALWAYS_INLINE Bytes left(Bytes v) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vshlq_n_u8(v.v[i], N); });
  }
  /// Takes 128 from each byte, as unsigned; as signed the byte is what it was less 128.
  ALWAYS_INLINE Bytes flip(Bytes v) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return veorq_u8(v.v[i], vdupq_n_u8(0x80)); });
  }
  ALWAYS_INLINE Table load_table(const uint8_t* p) { return vld1q_u8(p); }
  ALWAYS_INLINE Bytes look_up(Table table, Bytes codes) {
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vqtbl1q_u8(table, codes.v[i]); });
  }
  ALWAYS_INLINE Ints integers(int32_t v) {
    return four<Ints>([&](int) ALWAYS_INLINE_LAMBDA { return vdupq_n_s32(v); });
  }
  ALWAYS_INLINE Ints add(Ints v, Ints w) {
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA { return vaddq_s32(v.v[i], w.v[i]); });
  }
  ALWAYS_INLINE Ints left8(Ints v) {
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA { return vshlq_n_s32(v.v[i], 8); });
  }
  ALWAYS_INLINE void store_ints(int32_t* p, Ints v) {
    UNROLL for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, v.v[i]);
  }
  ALWAYS_INLINE Floats to_float(Ints v) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vcvtq_f32_s32(v.v[i]); });
  }
  ALWAYS_INLINE Floats set(float v) {
    return four<Floats>([&](int) ALWAYS_INLINE_LAMBDA { return vdupq_n_f32(v); });
  }
  ALWAYS_INLINE Floats add(Floats v, Floats w) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vaddq_f32(v.v[i], w.v[i]); });
  }
  ALWAYS_INLINE Floats sub(Floats v, Floats w) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vsubq_f32(v.v[i], w.v[i]); });
  }
  ALWAYS_INLINE Floats mul(Floats v, Floats w) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vmulq_f32(v.v[i], w.v[i]); });
  }
  ALWAYS_INLINE Floats multiply_add(Floats v, Floats w, Floats c) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vfmaq_f32(c.v[i], v.v[i], w.v[i]); });
  }
  /// By bytes: stored floats may lie anywhere.
  ALWAYS_INLINE Floats load_f32(const float* p) {
    const Bytes bytes = load(reinterpret_cast<const uint8_t*>(p));
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vreinterpretq_f32_u8(bytes.v[i]); });
  }
  ALWAYS_INLINE Floats load_part(const float* p, size_t n) {
    float v[16] = {};
    __builtin_memcpy(v, p, n * sizeof(float));
    return load_f32(v);
  }
  ALWAYS_INLINE Floats load_f16(const uint8_t* p) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p + 8 * i))); });
  }
  ALWAYS_INLINE Floats load_bf16(const uint8_t* p) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA {
      return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p + 8 * i)), 16));
    });
  }
  ALWAYS_INLINE void store(float* p, Floats v) {
    UNROLL for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.v[i]);
  }
  ALWAYS_INLINE void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
};

}  // namespace
}  // namespace lowbit
