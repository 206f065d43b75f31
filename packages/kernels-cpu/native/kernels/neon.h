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
  using Table64 = const uint8_t*;
  using Table256 = const uint8_t*;
  /// What is left of bytes moved right by N: their upper N bits are zero.
  template <int N>
  struct Moved : Bytes {};

  // Four registers are four chains, one after another, already; 24 sums leave room for codes, activations and a mask.
  static constexpr bool kChains = false;
  static constexpr bool kPairs = false;
  /// Whether panels pay: there are kernels of several rows, see squares.h.
  static constexpr bool kPanels = false;
  static constexpr bool kWords = false;
  static constexpr int kMost[kMaxPlanes] = {6, 3, 2};
  static constexpr int kTableSums = 6;
  /// Of attention, by queries - 1: what registers hold.
  static constexpr int kKeyBlocks[kMostQueries] = {2, 1, 1, 1};
  static constexpr int kValueVectors[kMostQueries] = {4, 2, 1, 1};
  static constexpr int kDotTokens = 1;
  static constexpr int kStripTokens = 1;
  static constexpr bool kHalves = false;

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
  ALWAYS_INLINE void store_bytes(uint8_t* p, Bytes v) {
    UNROLL for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, v.v[i]);
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
  ALWAYS_INLINE Table64 load_table64(const uint8_t* p) { return p; }
  ALWAYS_INLINE Bytes look_up64(Table64 table, Bytes codes) {
    const uint8x16x4_t numbers = vld1q_u8_x4(table);
    return four<Bytes>([&](int i) ALWAYS_INLINE_LAMBDA { return vqtbl4q_u8(numbers, codes.v[i]); });
  }
  ALWAYS_INLINE Table256 load_table256(const uint8_t* p) { return p; }
  /// Four look-ups of 64: a code outside of one's gives 0, or what was found before.
  ALWAYS_INLINE Bytes look_up256(Table256 table, Bytes codes) {
    Bytes found = look_up64(table, codes);
    UNROLL for (int part = 1; part < 4; ++part) {
      const uint8x16x4_t numbers = vld1q_u8_x4(table + 64 * part);
      const uint8x16_t less = vdupq_n_u8(static_cast<uint8_t>(64 * part));
      UNROLL for (int i = 0; i < 4; ++i) found.v[i] = vqtbx4q_u8(found.v[i], numbers, vsubq_u8(codes.v[i], less));
    }
    return found;
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
  ALWAYS_INLINE Floats fused(Floats v, Floats w, Floats c) { return multiply_add(v, w, c); }
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
  /// Byte T of each 32-bit lane.
  template <int T>
  ALWAYS_INLINE Ints byte_of(Bytes v) {
    return four<Ints>([&](int i) ALWAYS_INLINE_LAMBDA {
      const uint32x4_t moved = vshlq_u32(vreinterpretq_u32_u8(v.v[i]), vdupq_n_s32(-8 * T));
      return vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32(255)));
    });
  }
  ALWAYS_INLINE Floats gather(const float* base, Ints at) {
    int32_t index[16];
    float found[16];
    store_ints(index, at);
    for (int i = 0; i < 16; ++i) found[i] = base[index[i]];
    return load_f32(found);
  }
  ALWAYS_INLINE Floats pick(const Floats& table, Ints at) {
    float numbers[16];
    store(numbers, table);
    return gather(numbers, at);
  }
  /// To nearest, ties to even.
  ALWAYS_INLINE Floats round_f16(Floats v) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA { return vcvt_f32_f16(vcvt_f16_f32(v.v[i])); });
  }
  ALWAYS_INLINE Floats round_bf16(Floats v) {
    return four<Floats>([&](int i) ALWAYS_INLINE_LAMBDA {
      const uint32x4_t bits = vreinterpretq_u32_f32(v.v[i]);
      const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
      const uint32x4_t up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
      return vreinterpretq_f32_u32(vandq_u32(up, vdupq_n_u32(0xffff0000u)));
    });
  }
  /// Of lanes H apart: sums in the lower one, differences in the upper.
  template <int H>
  ALWAYS_INLINE Floats butterfly(Floats v) {
    float x[16], y[16];
    store(x, v);
    for (int i = 0; i < 16; ++i) y[i] = (i & H) == 0 ? x[i] + x[i + H] : x[i - H] - x[i];
    return load_f32(y);
  }
  ALWAYS_INLINE void store(float* p, Floats v) {
    UNROLL for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v.v[i]);
  }
  ALWAYS_INLINE void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
};

}  // namespace
}  // namespace lowbit
