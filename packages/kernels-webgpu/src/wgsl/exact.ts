// Arithmetic of JavaScript in whole numbers. WGSL lets f32 be fused, reordered, flushed to zero and divided inexactly, and has no f64 at all; u32 it defines to
// the bit. So what must give the bytes of the TypeScript (routines of quantizers) computes here: f32 as their bits, f64 as `D`, unpacked.
//
// No infinities and NaNs but where a function says so; no subnormal f64, which sums and products of f32 never are.

/** IEEE 754 binary64, as two words, the high one first. */
export function words64(value: number): readonly [high: number, low: number] {
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, value);
  return [bits.getUint32(0), bits.getUint32(4)];
}

export const EXACT = `
// (-1)^neg (hi 2^32 + lo) 2^(e - 63), bit 63 set, the 11 lowest clear; zero: hi is 0.
struct D { neg: u32, e: i32, hi: u32, lo: u32 }
const NAN = 0x7fc00000u;
const INFINITE = 0x7f800000u;

fn is_finite(bits: u32) -> bool { return (bits & 0x7f800000u) != 0x7f800000u; }
fn is_nan(bits: u32) -> bool { return (bits & 0x7fffffffu) > 0x7f800000u; }
// In the order of numbers, both zeros equal.
fn order_of(bits: u32) -> i32 { return select(i32(bits), -i32(bits & 0x7fffffffu), (bits >> 31u) == 1u); }
fn above(a: u32, b: u32) -> bool { return !is_nan(a) && !is_nan(b) && order_of(a) > order_of(b); }
fn same(a: u32, b: u32) -> bool { return !is_nan(a) && order_of(a) == order_of(b); }

// Product of 64 bits, the high word first.
fn wide(a: u32, b: u32) -> vec2<u32> {
  let al = a & 0xffffu; let ah = a >> 16u; let bl = b & 0xffffu; let bh = b >> 16u;
  let p = al * bl; let q = al * bh; let r = ah * bl;
  let mid = (p >> 16u) + (q & 0xffffu) + (r & 0xffffu);
  return vec2<u32>(ah * bh + (q >> 16u) + (r >> 16u) + (mid >> 16u), (p & 0xffffu) | (mid << 16u));
}
fn left64(v: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return v; }
  if (n >= 32u) { return vec2<u32>(v.y << (n - 32u), 0u); }
  return vec2<u32>((v.x << n) | (v.y >> (32u - n)), v.y << n);
}
fn right64(v: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return v; }
  if (n >= 64u) { return vec2<u32>(0u); }
  if (n >= 32u) { return vec2<u32>(0u, v.x >> (n - 32u)); }
  return vec2<u32>(v.x >> n, (v.y >> n) | (v.x << (32u - n)));
}
fn less64(a: vec2<u32>, b: vec2<u32>) -> bool { return a.x < b.x || (a.x == b.x && a.y < b.y); }
fn minus64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> { return vec2<u32>(a.x - b.x - u32(a.y < b.y), a.y - b.y); }

// To 53 bits, ties to even. \`rest\`: whether bits below were lost.
fn rounded(neg: u32, e: i32, v: vec2<u32>, rest: bool) -> D {
  let low = v.y & 0x7ffu;
  let up = low > 0x400u || (low == 0x400u && (rest || (v.y & 0x800u) != 0u));
  var d = D(neg, e, v.x, v.y & 0xfffff800u);
  if (up) {
    d.lo += 0x800u;
    if (d.lo == 0u) { d.hi += 1u; }
    if (d.hi == 0u) { d.hi = 0x80000000u; d.e += 1; }
  }
  return d;
}

fn d_minus(a: D) -> D { return D(a.neg ^ 1u, a.e, a.hi, a.lo); }
fn d_add(a: D, b: D) -> D {
  if (a.hi == 0u && b.hi == 0u) { return D(a.neg & b.neg, 0, 0u, 0u); }
  if (a.hi == 0u) { return b; }
  if (b.hi == 0u) { return a; }
  var x = a;
  var y = b;
  if (a.e < b.e || (a.e == b.e && less64(vec2<u32>(a.hi, a.lo), vec2<u32>(b.hi, b.lo)))) { x = b; y = a; }
  let n = u32(x.e - y.e);
  let big = vec2<u32>(x.hi, x.lo);
  let all = vec2<u32>(y.hi, y.lo);
  let small = right64(all, n);
  let back = left64(small, min(n, 63u));
  let rest = n >= 64u || back.x != all.x || back.y != all.y;
  if (x.neg == y.neg) {
    let low = big.y + small.y;
    let carry = u32(low < big.y);
    let part = big.x + small.x;
    let high = part + carry;
    if (part < big.x || high < part) {
      return rounded(x.neg, x.e + 1, vec2<u32>(0x80000000u | (high >> 1u), (low >> 1u) | (high << 31u)), rest || (low & 1u) != 0u);
    }
    return rounded(x.neg, x.e, vec2<u32>(high, low), rest);
  }
  var v = minus64(big, small);
  if (rest) { v = minus64(v, vec2<u32>(0u, 1u)); }
  if ((v.x | v.y) == 0u) { return D(0u, 0, 0u, 0u); }
  let zeros = select(countLeadingZeros(v.x), 32u + countLeadingZeros(v.y), v.x == 0u);
  return rounded(x.neg, x.e - i32(zeros), left64(v, zeros), rest);
}
fn d_sub(a: D, b: D) -> D { return d_add(a, d_minus(b)); }
fn d_mul(a: D, b: D) -> D {
  let neg = a.neg ^ b.neg;
  if (a.hi == 0u || b.hi == 0u) { return D(neg, 0, 0u, 0u); }
  var v = wide(a.hi, b.hi);
  var below = 0u;
  var rest = false;
  if ((a.lo | b.lo) != 0u) {
    let p = wide(a.hi, b.lo);
    let q = wide(a.lo, b.hi);
    let r = wide(a.lo, b.lo);
    let s = p.y + q.y;
    below = s + r.x;
    let up = u32(s < p.y) + u32(below < s);
    let t = v.y + p.x;
    let u = t + q.x;
    let w = u + up;
    v = vec2<u32>(v.x + u32(t < v.y) + u32(u < t) + u32(w < u), w);
    rest = r.y != 0u;
  }
  if ((v.x >> 31u) == 1u) { return rounded(neg, a.e + b.e + 1, v, rest || below != 0u); }
  return rounded(neg, a.e + b.e, vec2<u32>((v.x << 1u) | (v.y >> 31u), (v.y << 1u) | (below >> 31u)), rest || (below << 1u) != 0u);
}
// b is not zero.
fn d_div(a: D, b: D) -> D {
  let neg = a.neg ^ b.neg;
  if (a.hi == 0u) { return D(neg, 0, 0u, 0u); }
  var r = right64(vec2<u32>(a.hi, a.lo), 11u);
  let d = right64(vec2<u32>(b.hi, b.lo), 11u);
  var e = a.e - b.e;
  if (less64(r, d)) { r = left64(r, 1u); e -= 1; }
  var q = vec2<u32>(0u);
  for (var i = 0; i < 55; i++) {
    q = left64(q, 1u);
    if (!less64(r, d)) { r = minus64(r, d); q.y |= 1u; }
    r = left64(r, 1u);
  }
  return rounded(neg, e, left64(q, 9u), (r.x | r.y) != 0u);
}
// Of a positive number: bit by bit, as on paper.
fn d_sqrt(a: D) -> D {
  if (a.hi == 0u) { return a; }
  let odd = u32(a.e & 1);
  // 53 bits and one more for an odd exponent, two at a time from the top; then zeros.
  var m = left64(right64(vec2<u32>(a.hi, a.lo), 11u), 10u + odd);
  var root = vec2<u32>(0u);
  var r = vec2<u32>(0u);
  for (var i = 0; i < 55; i++) {
    r = left64(r, 2u);
    r.y |= m.x >> 30u;
    m = left64(m, 2u);
    var t = left64(root, 2u);
    t.y |= 1u;
    root = left64(root, 1u);
    if (!less64(r, t)) { r = minus64(r, t); root.y |= 1u; }
  }
  return rounded(0u, (a.e - i32(odd)) / 2, left64(root, 9u), (r.x | r.y) != 0u);
}
fn d_int(i: i32) -> D {
  let m = u32(abs(i));
  let zeros = countLeadingZeros(m);
  return D(u32(i < 0), 31 - i32(zeros), select(m << (zeros & 31u), 0u, m == 0u), 0u);
}
// The largest whole number that is not above; |a| below 2^30.
fn d_floor(a: D) -> i32 {
  if (a.hi == 0u) { return 0; }
  if (a.e < 0) { return -i32(a.neg); }
  let whole = i32(a.hi >> u32(31 - a.e));
  let rest = (a.hi << u32(a.e + 1)) != 0u || a.lo != 0u;
  return select(whole, -whole - i32(rest), a.neg == 1u);
}
// From and to IEEE 754, normal numbers and zero.
fn d_of64(high: u32, low: u32) -> D {
  if (((high << 1u) | low) == 0u) { return D(high >> 31u, 0, 0u, 0u); }
  let v = left64(vec2<u32>((high & 0xfffffu) | 0x100000u, low), 11u);
  return D(high >> 31u, i32((high >> 20u) & 0x7ffu) - 1023, v.x, v.y);
}
fn d_to64(a: D) -> vec2<u32> {
  if (a.hi == 0u) { return vec2<u32>(a.neg << 31u, 0u); }
  let v = right64(vec2<u32>(a.hi, a.lo), 11u);
  return vec2<u32>((a.neg << 31u) | (u32(a.e + 1023) << 20u) | (v.x & 0xfffffu), v.y);
}
// From f32; infinity as 2^128.
fn d_of(bits: u32) -> D {
  let neg = bits >> 31u;
  let field = (bits >> 23u) & 255u;
  let m = bits & 0x7fffffu;
  if (field != 0u) { return D(neg, i32(field) - 127, (m << 8u) | 0x80000000u, 0u); }
  if (m == 0u) { return D(neg, 0, 0u, 0u); }
  let zeros = countLeadingZeros(m);
  return D(neg, -118 - i32(zeros), m << zeros, 0u);
}
// To f32, ties to even; infinity for what is too large.
fn f_of(a: D) -> u32 {
  let sign = a.neg << 31u;
  if (a.hi == 0u || a.e < -150) { return sign; }
  if (a.e > 127) { return sign | INFINITE; }
  // Bits to leave out of 32: 8, and more of what becomes subnormal.
  let out = 8u + u32(max(0, -126 - a.e));
  let kept = select(a.hi >> (out & 31u), 0u, out > 31u);
  let rest = select(a.hi << ((32u - out) & 31u), a.hi, out >= 32u);
  // At 32 bits left out, \`rest\` is what is after the point; with 8 to 31, too. Beyond 32 it is less than half.
  let half = 0x80000000u;
  let up = out <= 32u && (rest > half || (rest == half && (a.lo != 0u || (kept & 1u) != 0u)));
  let m = kept + u32(up);
  if (a.e < -126) { return sign | m; }
  return sign | ((u32(a.e + 126) << 23u) + m);
}

fn f_add(a: u32, b: u32) -> u32 { return f_of(d_add(d_of(a), d_of(b))); }
fn f_sub(a: u32, b: u32) -> u32 { return f_of(d_add(d_of(a), d_of(b ^ 0x80000000u))); }
// With infinities and NaN.
fn f_mul(a: u32, b: u32) -> u32 {
  if (is_nan(a) || is_nan(b)) { return NAN; }
  if (!is_finite(a) || !is_finite(b)) {
    if (((a & 0x7fffffffu) == 0u) || ((b & 0x7fffffffu) == 0u)) { return NAN; }
    return ((a ^ b) & 0x80000000u) | INFINITE;
  }
  return f_of(d_mul(d_of(a), d_of(b)));
}
// With infinities and NaN.
fn f_div(a: u32, b: u32) -> u32 {
  let sign = (a ^ b) & 0x80000000u;
  if (is_nan(a) || is_nan(b)) { return NAN; }
  let none = (b & 0x7fffffffu) == 0u;
  if (!is_finite(b)) { return select(sign, NAN, !is_finite(a)); }
  if (!is_finite(a)) { return sign | INFINITE; }
  if ((a & 0x7fffffffu) == 0u) { return select(sign, NAN, none); }
  if (none) { return sign | INFINITE; }
  let x = d_of(a);
  let y = d_of(b);
  var r = x.hi >> 8u;
  let d = y.hi >> 8u;
  var e = x.e - y.e;
  if (r < d) { r = r << 1u; e -= 1; }
  var q = 0u;
  for (var i = 0; i < 30; i++) {
    q = q << 1u;
    if (r >= d) { r -= d; q |= 1u; }
    r = r << 1u;
  }
  return f_of(D(sign >> 31u, e, q << 2u, u32(r != 0u)));
}
// Nearest whole number of one from 0 to \`top\`, ties to even, of any other the nearer end.
fn f_code(bits: u32, top: u32) -> u32 {
  if ((bits >> 31u) == 1u) { return 0u; }
  let e = i32(bits >> 23u) - 127;
  if (e < -1) { return 0u; }
  if (e > 22) { return top; }
  let m = (bits & 0x7fffffu) | 0x800000u;
  let n = u32(23 - e);
  let whole = m >> n;
  let rest = m & ((1u << n) - 1u);
  let half = 1u << (n - 1u);
  return min(top, whole + u32(rest > half || (rest == half && (whole & 1u) != 0u)));
}
// f32 of a small whole number.
fn f_int(i: u32) -> u32 { return bitcast<u32>(f32(i)); }

fn of_f16(half: u32) -> u32 {
  let sign = (half & 0x8000u) << 16u;
  let field = (half >> 10u) & 31u;
  let m = half & 0x3ffu;
  if (field == 31u) { return sign | INFINITE | (m << 13u); }
  if (field != 0u) { return sign | ((field + 112u) << 23u) | (m << 13u); }
  if (m == 0u) { return sign; }
  let zeros = countLeadingZeros(m) - 21u;
  return sign | ((113u - zeros) << 23u) | (((m << zeros) & 0x3ffu) << 13u);
}
fn to_bf16(bits: u32) -> u32 { return (bits + 0x7fffu + ((bits >> 16u) & 1u)) & 0xffff0000u; }
// Rounded to f16, as f32; infinity for what is too large.
fn to_f16(bits: u32) -> u32 {
  let sign = bits & 0x80000000u;
  let size = bits & 0x7fffffffu;
  if (size >= 0x477ff000u) { return sign | INFINITE; }
  if (size >= 0x38800000u) { return sign | ((size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u); }
  // Multiples of 2^-24.
  if (size < 0x33000000u) { return sign; }
  let n = 126u - (size >> 23u);
  let m = (size & 0x7fffffu) | 0x800000u;
  let whole = m >> n;
  let rest = m & ((1u << n) - 1u);
  let half = 1u << (n - 1u);
  let q = whole + u32(rest > half || (rest == half && (whole & 1u) != 0u));
  return select(sign, sign | (bitcast<u32>(f32(q)) - (24u << 23u)), q > 0u);
}`;
