// attention fresh half half 64 64 f16 causal bias none
struct Params {
  q: u32,
  out: u32,
  heads: u32,
  kv_heads: u32,
  scale: f32,
  cache: u32,
  k: u32,
  v: u32,
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
fn stored(start: u32, i: u32) -> f32 { return unpack2x16float(kv[start + i / 2u])[i & 1u]; }
var<workgroup> reduced: array<f32, 64>;
fn sum_of_all(value: f32, lid: u32) -> f32 {
  workgroupBarrier();
  reduced[lid] = value;
  for (var half = 32u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lid < half) { reduced[lid] = reduced[lid] + reduced[lid + half]; }
  }
  workgroupBarrier();
  return reduced[0];
}
fn largest_of_all(value: f32, lid: u32) -> f32 {
  workgroupBarrier();
  reduced[lid] = value;
  for (var half = 32u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lid < half) { reduced[lid] = max(reduced[lid], reduced[lid + half]); }
  }
  workgroupBarrier();
  return reduced[0];
}
var<workgroup> query: array<f32, 64>;
var<workgroup> shares: array<f32, 64>;
var<workgroup> fresh_k: array<f32, 64>;
var<workgroup> fresh_v: array<f32, 64>;
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
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let head = wid.x;
  let domain = P.q >> 29u;
  let share = step[17u] + which.x * 12u;
  let kv_head = head * P.kv_heads / P.heads;
  let k_words = (((P.kv_heads * 64u) + 1u) / 2u);
  let v_words = (((P.kv_heads * 64u) + 1u) / 2u);
  let view = step[19u] + (which.x * step[20u] + P.cache) * 4u;
  let count = step[view];
  let first_position = 0u;
  let keys = 0u;
  let values = step[view + 2u] * k_words;
  let row = step[share + domain] + wid.y;
  let position = step[step[24u + domain] + row];
  // Positions of keys count from `first_position`.
  let mine = position - min(position, first_position);
  let end = min(count, mine + 1u);
  let begin = 0u;
  for (var i = lid; i < 64u; i += 64u) { query[i] = turned_q(at(P.q) + row * P.heads * 64u, row, head * 64u + i) * P.scale; }
  let writes = true;
  let fresh = step[view + 1u];
  for (var i = lid; i < 64u; i += 64u) { fresh_k[i] = round_f16(turned_k(at(P.k) + row * P.kv_heads * 64u, row, kv_head * 64u + i)); }
  for (var i = lid; i < 64u; i += 64u) { fresh_v[i] = round_f16(arena[at(P.v) + (row * P.kv_heads + kv_head) * 64u + i]); }
  workgroupBarrier();
  if (writes && (head == 0u || (head - 1u) * P.kv_heads / P.heads != kv_head)) {
    for (var i = lid; i < 32u; i += 64u) {
      let a = fresh_k[2u * i];
      let b = fresh_k[2u * i + 1u];
      kv[fresh * k_words + kv_head * 32u + i] = pack2x16float(vec2<f32>(a, b));
    }
    for (var i = lid; i < 32u; i += 64u) {
      let a = fresh_v[2u * i];
      let b = fresh_v[2u * i + 1u];
      kv[values + fresh * v_words + kv_head * 32u + i] = pack2x16float(vec2<f32>(a, b));
    }
  }
  var sum0 = 0.0;
  var largest = -3.0e38;
  var total = 0.0;
  workgroupBarrier();
  for (var tile = begin; tile < end; tile += 64u) {
    let j = tile + lid;
    var score = -3.0e38;
    if (j < end) {
      let start = keys + j * k_words;
      score = 0.0;
      if (j == fresh) { for (var i = 0u; i < 64u; i++) { score += query[i] * fresh_k[i]; } }
      else { for (var i = 0u; i < 64u; i++) { score += query[i] * stored(start, kv_head * 64u + i); } }
    }
    let larger = max(largest, largest_of_all(score, lid));
    let shrink = exp(largest - larger);
    largest = larger;
    let mine_share = select(0.0, exp(score - larger), j < end);
    shares[lid] = mine_share;
    total = total * shrink + sum_of_all(mine_share, lid);
    let here = min(64u, end - tile);
    let old = min(here, fresh - min(fresh, tile));
    if (lid + 0u < 64u) {
      sum0 *= shrink;
      for (var t = 0u; t < old; t++) { sum0 += shares[t] * stored(values + (tile + t) * v_words, kv_head * 64u + lid + 0u); }
      if (old < here) { sum0 += shares[old] * fresh_v[lid + 0u]; }
    }
    workgroupBarrier();
  }
  let out = at(P.out) + (row * P.heads + head) * 64u;
  if (lid + 0u < 64u) { arena[out + lid + 0u] = select(0.0, sum0 / total, begin < end); }
}
