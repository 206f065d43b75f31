// append f16 q half k half
struct Params {
  k: u32,
  v: u32,
  k_width: u32,
  v_width: u32,
  cache: u32,
  q_pairs: u32,
  q: u32,
  q_out: u32,
  q_width: u32,
  q_part: u32,
  q_dim: u32,
  q_angles: u32,
  k_part: u32,
  k_dim: u32,
  k_angles: u32,
}
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<f32>;
@group(1) @binding(0) var<uniform> P: Params;
@group(2) @binding(0) var<uniform> which: vec4<u32>;
@group(2) @binding(1) var<storage, read_write> kv: array<u32>;
fn rows_of(tensor: u32) -> u32 { return step[0u + (tensor >> 29u)]; }
fn at(tensor: u32) -> u32 { return step[8u + (tensor >> 29u)] + (tensor & 0x1fffffffu) * rows_of(tensor); }
fn not_a_number(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn round_f16(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let size = bits & 0x7fffffffu;
  // From 65520 on.
  if (size >= 0x477ff000u) { return select(bitcast<f32>((bits & 0x80000000u) | 0x7f800000u), x, size > 0x7f800000u); }
  // Below 2^-14 numbers of f16 are multiples of 2^-24.
  if (size < 0x38800000u) { return round(x * 16777216.0) * 5.9604644775390625e-8; }
  return bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
}
fn bf16_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn round_bf16(x: f32) -> f32 { return bitcast<f32>(bf16_bits(x) << 16u); }
fn tanh_of(x: f32) -> f32 {
  let t = exp(-2.0 * abs(x));
  return sign(x) * (1.0 - t) / (1.0 + t);
}
fn logistic(x: f32) -> f32 { return 1.0 / (1.0 + exp(clamp(-x, -80.0, 80.0))); }
// Abramowitz and Stegun, 7.1.26: off by at most 1.5e-7.
fn erf_of(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(x));
  let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sign(x) * (1.0 - p * exp(-x * x));
}
fn turned_q(start: u32, row: u32, i: u32) -> f32 {
  let part = P.q_part;
  let d = i % part;
  if (d >= P.q_dim) { return arena[start + i]; }
  let half = P.q_dim / 2u;
  let angle = step[32u + P.q_angles] + (row * half + (d % half)) * 2u;
  let cosine = bitcast<f32>(step[angle]);
  let sine = bitcast<f32>(step[angle + 1u]);
  let here = arena[start + i];
  if (d >= half) { return here * cosine + arena[start + i - half] * sine; }
  return here * cosine - arena[start + i + half] * sine;
}
fn turned_k(start: u32, row: u32, i: u32) -> f32 {
  let part = P.k_part;
  let d = i % part;
  if (d >= P.k_dim) { return arena[start + i]; }
  let half = P.k_dim / 2u;
  let angle = step[32u + P.k_angles] + (row * half + (d % half)) * 2u;
  let cosine = bitcast<f32>(step[angle]);
  let sine = bitcast<f32>(step[angle + 1u]);
  let here = arena[start + i];
  if (d >= half) { return here * cosine + arena[start + i - half] * sine; }
  return here * cosine - arena[start + i + half] * sine;
}
fn store(to: u32, i: u32, width: u32, a: f32, b: f32) {
  kv[to + i / 2u] = pack2x16float(vec2<f32>(round_f16(a), round_f16(b)));
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let share = step[17u] + which.x * 12u;
  let domain = P.k >> 29u;
  let row = step[share + domain] + wid.y;
  let view = step[19u] + (which.x * step[20u] + P.cache) * 4u;
  let to = step[view + 1u] + wid.y;
  let room = step[view + 2u];
  var i = wx * 64u + lid;
  if (i < P.q_pairs) {
    let start = at(P.q) + row * P.q_width;
    let out = at(P.q_out) + row * P.q_width;
    arena[out + 2u * i] = turned_q(start, row, 2u * i);
    if (2u * i + 1u < P.q_width) { arena[out + 2u * i + 1u] = turned_q(start, row, 2u * i + 1u); }
    return;
  }
  i -= P.q_pairs;
  let k_pairs = (P.k_width + 1u) / 2u;
  if (i < k_pairs) {
    let start = at(P.k) + row * P.k_width;
    let other = min(2u * i + 1u, P.k_width - 1u);
    store(to * ((P.k_width + 1u) / 2u), 2u * i, P.k_width, turned_k(start, row, 2u * i), turned_k(start, row, other));
    return;
  }
  i -= k_pairs;
  if (2u * i >= P.v_width) { return; }
  let start = at(P.v) + row * P.v_width;
  let other = min(2u * i + 1u, P.v_width - 1u);
  store(room * ((P.k_width + 1u) / 2u) + to * ((P.v_width + 1u) / 2u), 2u * i, P.v_width, arena[start + 2u * i], arena[start + other]);
}
