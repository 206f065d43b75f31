// Portable C++: what every machine runs, and what the other instruction sets are compared with.
#include "prelude.h"

namespace lowbit {
namespace {

struct V {
  struct Bytes {
    uint8_t v[64];
  };
  struct Ints {
    int32_t v[16];
  };
  struct Floats {
    float v[16];
  };
  struct Table {
    uint8_t v[16];
  };
  using Table64 = const uint8_t*;
  using Table256 = const uint8_t*;

  static constexpr bool kChains = false;
  static constexpr bool kSigned = false;
  /// Whether panels pay: not where registers are too few.
  static constexpr bool kPanels = false;
  static constexpr bool kWords = false;
  static constexpr bool kPairs = false;
  static constexpr int kMost[kMaxPlanes] = {1, 1, 1};
  static constexpr int kTableSums = 6;
  /// Of attention, by queries - 1: what registers hold.
  static constexpr int kKeyBlocks[kMostQueries] = {1, 1, 1, 1};
  static constexpr int kValueVectors[kMostQueries] = {1, 1, 1, 1};
  static constexpr int kDotTokens = 1;
  static constexpr int kStripTokens = 1;
  static constexpr bool kHalves = false;

  template <class R, class F>
  ALWAYS_INLINE R lanes(F f) {
    R r;
    for (size_t i = 0; i < sizeof(r.v) / sizeof(r.v[0]); ++i) r.v[i] = f(i);
    return r;
  }
  ALWAYS_INLINE Bytes load(const uint8_t* p) {
    Bytes r;
    __builtin_memcpy(r.v, p, 64);
    return r;
  }
  ALWAYS_INLINE void store_bytes(uint8_t* p, Bytes v) { __builtin_memcpy(p, v.v, 64); }
  ALWAYS_INLINE Bytes mask(Bytes v, int byte) {
    return lanes<Bytes>([&](size_t i) { return static_cast<uint8_t>(v.v[i] & byte); });
  }
  ALWAYS_INLINE Bytes either(Bytes a, Bytes b) {
    return lanes<Bytes>([&](size_t i) { return static_cast<uint8_t>(a.v[i] | b.v[i]); });
  }
  template <int N>
  ALWAYS_INLINE Bytes right(Bytes v) {
    return lanes<Bytes>([&](size_t i) { return static_cast<uint8_t>(v.v[i] >> N); });
  }
  template <int N>
  ALWAYS_INLINE Bytes left(Bytes v) {
    return lanes<Bytes>([&](size_t i) { return static_cast<uint8_t>(v.v[i] << N); });
  }
  ALWAYS_INLINE Table load_table(const uint8_t* p) {
    Table t;
    __builtin_memcpy(t.v, p, 16);
    return t;
  }
  ALWAYS_INLINE Bytes look_up(const Table& table, Bytes codes) {
    return lanes<Bytes>([&](size_t i) { return table.v[codes.v[i]]; });
  }
  ALWAYS_INLINE Table64 load_table64(const uint8_t* p) { return p; }
  ALWAYS_INLINE Table256 load_table256(const uint8_t* p) { return p; }
  ALWAYS_INLINE Bytes look_up64(Table64 table, Bytes codes) { return look_up256(table, codes); }
  ALWAYS_INLINE Bytes look_up256(Table256 table, Bytes codes) {
    return lanes<Bytes>([&](size_t i) { return table[codes.v[i]]; });
  }
  template <bool WIDE>
  ALWAYS_INLINE Ints dot(Ints sum, Bytes codes, int32_t a) {
    int8_t b[4];
    __builtin_memcpy(b, &a, 4);
    return lanes<Ints>([&](size_t i) {
      const uint8_t* q = codes.v + 4 * i;
      return sum.v[i] + q[0] * b[0] + q[1] * b[1] + q[2] * b[2] + q[3] * b[3];
    });
  }
  ALWAYS_INLINE Ints integers(int32_t v) {
    return lanes<Ints>([&](size_t) { return v; });
  }
  // Through unsigned numbers: sums of LLM.int8 may pass 2^31 on the way to a result that does not.
  ALWAYS_INLINE Ints add(Ints a, Ints b) {
    return lanes<Ints>([&](size_t i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
  }
  ALWAYS_INLINE Ints left8(Ints v) {
    return lanes<Ints>([&](size_t i) { return static_cast<int32_t>(static_cast<uint32_t>(v.v[i]) << 8); });
  }
  ALWAYS_INLINE void store_ints(int32_t* p, Ints v) { __builtin_memcpy(p, v.v, sizeof(v.v)); }
  ALWAYS_INLINE Floats to_float(Ints v) {
    return lanes<Floats>([&](size_t i) { return static_cast<float>(v.v[i]); });
  }
  ALWAYS_INLINE Floats set(float v) {
    return lanes<Floats>([&](size_t) { return v; });
  }
  ALWAYS_INLINE Floats add(Floats a, Floats b) {
    return lanes<Floats>([&](size_t i) { return a.v[i] + b.v[i]; });
  }
  ALWAYS_INLINE Floats sub(Floats a, Floats b) {
    return lanes<Floats>([&](size_t i) { return a.v[i] - b.v[i]; });
  }
  ALWAYS_INLINE Floats mul(Floats a, Floats b) {
    return lanes<Floats>([&](size_t i) { return a.v[i] * b.v[i]; });
  }
  ALWAYS_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
    return lanes<Floats>([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  /// Rounded once, like the instruction that others have.
  ALWAYS_INLINE Floats fused(Floats a, Floats b, Floats c) {
    return lanes<Floats>([&](size_t i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  ALWAYS_INLINE Floats load_f32(const float* p) {
    Floats r;
    __builtin_memcpy(r.v, p, sizeof(r.v));
    return r;
  }
  ALWAYS_INLINE Floats load_part(const float* p, size_t n) {
    Floats r{};
    __builtin_memcpy(r.v, p, n * sizeof(float));
    return r;
  }
  /// Shifts the fields of an f16 into those of an f32 and rebases the exponent by a product, which also makes subnormals right.
  ALWAYS_INLINE float from_f16(uint32_t half) {
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    uint32_t bits = rest << 13;
    float value;
    if (rest >= 0x7c00u) {
      bits |= 0x7f800000u;
      __builtin_memcpy(&value, &bits, 4);
    } else {
      __builtin_memcpy(&value, &bits, 4);
      value *= 0x1p112f;
      __builtin_memcpy(&bits, &value, 4);
    }
    bits |= sign;
    __builtin_memcpy(&value, &bits, 4);
    return value;
  }
  ALWAYS_INLINE Floats load_f16(const uint8_t* p) {
    uint16_t h[16];
    __builtin_memcpy(h, p, sizeof(h));
    return lanes<Floats>([&](size_t i) { return from_f16(h[i]); });
  }
  ALWAYS_INLINE Floats load_bf16(const uint8_t* p) {
    uint16_t h[16];
    __builtin_memcpy(h, p, sizeof(h));
    return lanes<Floats>([&](size_t i) {
      const uint32_t bits = static_cast<uint32_t>(h[i]) << 16;
      float value;
      __builtin_memcpy(&value, &bits, 4);
      return value;
    });
  }
  /// Byte T of each 32-bit lane.
  template <int T>
  ALWAYS_INLINE Ints byte_of(Bytes v) {
    return lanes<Ints>([&](size_t i) { return v.v[4 * i + T]; });
  }
  ALWAYS_INLINE Floats gather(const float* base, Ints at) {
    return lanes<Floats>([&](size_t i) { return base[at.v[i]]; });
  }
  ALWAYS_INLINE Floats pick(const Floats& table, Ints at) {
    return lanes<Floats>([&](size_t i) { return table.v[at.v[i]]; });
  }
  ALWAYS_INLINE uint32_t bits_of(float v) {
    uint32_t u;
    __builtin_memcpy(&u, &v, 4);
    return u;
  }
  ALWAYS_INLINE float float_of(uint32_t u) {
    float v;
    __builtin_memcpy(&v, &u, 4);
    return v;
  }
  /// To nearest, ties to even: a number that is so much larger has the last bit that f16 has, so that adding and taking it away rounds.
  ALWAYS_INLINE Floats round_f16(Floats v) {
    return lanes<Floats>([&](size_t i) {
      const uint32_t u = bits_of(v.v[i]);
      const uint32_t magnitude = u & 0x7fffffffu;
      if (magnitude >= 0x477ff000u) return magnitude > 0x7f800000u ? v.v[i] : float_of((u & 0x80000000u) | 0x7f800000u);
      const uint32_t exponent = (magnitude < 0x38800000u ? 0x38800000u : magnitude) & 0x7f800000u;
      const float far = float_of(exponent + (13u << 23));
      return float_of(bits_of((float_of(magnitude) + far) - far) | (u & 0x80000000u));
    });
  }
  ALWAYS_INLINE Floats round_bf16(Floats v) {
    return lanes<Floats>([&](size_t i) {
      const uint32_t u = bits_of(v.v[i]);
      return float_of((u + (u >> 16 & 1) + 0x7fff) & 0xffff0000u);
    });
  }
  /// Of lanes H apart: sums in the lower one, differences in the upper.
  template <int H>
  ALWAYS_INLINE Floats butterfly(Floats v) {
    return lanes<Floats>([&](size_t i) { return (i & H) == 0 ? v.v[i] + v.v[i + H] : v.v[i - H] - v.v[i]; });
  }
  ALWAYS_INLINE void store(float* p, Floats v) { __builtin_memcpy(p, v.v, sizeof(v.v)); }
  ALWAYS_INLINE void prefetch(const uint8_t*) {}
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

const Kernels* scalar_kernels() {
  static const Kernels kernels = make_kernels(Isa::scalar);
  return &kernels;
}

}  // namespace lowbit
