// product x1 rms gate silu: affine 4b chunk f16 | affine 4b chunk f16
struct Params {
  x: u32,
  inp: u32,
  chunks: u32,
  eps: f32,
  norm_weight: u32,
  norm_offset: f32,
  norm_bias: u32,
  w0_out: u32,
  w0_row_words: u32,
  w0_scale: u32,
  w0_zero: u32,
  w0_table: u32,
  w0_bias: u32,
  w0_group: u32,
  w0_groups: u32,
  w0_per_row: u32,
  w0_row0: u32,
  w0_group0: u32,
  w1_out: u32,
  w1_row_words: u32,
  w1_scale: u32,
  w1_zero: u32,
  w1_table: u32,
  w1_bias: u32,
  w1_group: u32,
  w1_groups: u32,
  w1_per_row: u32,
  w1_row0: u32,
  w1_group0: u32,
  out0: u32,
  out0_width: u32,
  out0_at: u32,
}
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<f32>;
@group(1) @binding(0) var<uniform> P: Params;
@group(1) @binding(1) var<storage, read> w0: array<vec4<u32>>;
@group(1) @binding(2) var<storage, read> w1: array<vec4<u32>>;
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
fn word_0(n: u32) -> u32 { return w0[n >> 2u][n & 3u]; }
fn stored_0(start: u32, g: u32) -> f32 { let bits = word_0(start + (g >> 1u)); return unpack2x16float(bits)[g & 1u]; }
fn chunk_0(base: u32, row: u32, c: u32) -> array<vec4<f32>, 8> {
  let start = base + row * P.w0_row_words + c * 4u;
  let v0 = w0[(start >> 2u) + 0u];
  let g = row * P.w0_per_row + (c * 32u) / P.w0_group;
  let s = stored_0(base + P.w0_scale, g);
  let z = stored_0(base + P.w0_zero, g);
  return array<vec4<f32>, 8>(
    (vec4<f32>(vec4<u32>((v0.x & 15u), ((v0.x >> 4u) & 15u), ((v0.x >> 8u) & 15u), ((v0.x >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.x >> 16u) & 15u), ((v0.x >> 20u) & 15u), ((v0.x >> 24u) & 15u), ((v0.x >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.y & 15u), ((v0.y >> 4u) & 15u), ((v0.y >> 8u) & 15u), ((v0.y >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.y >> 16u) & 15u), ((v0.y >> 20u) & 15u), ((v0.y >> 24u) & 15u), ((v0.y >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.z & 15u), ((v0.z >> 4u) & 15u), ((v0.z >> 8u) & 15u), ((v0.z >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.z >> 16u) & 15u), ((v0.z >> 20u) & 15u), ((v0.z >> 24u) & 15u), ((v0.z >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.w & 15u), ((v0.w >> 4u) & 15u), ((v0.w >> 8u) & 15u), ((v0.w >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.w >> 16u) & 15u), ((v0.w >> 20u) & 15u), ((v0.w >> 24u) & 15u), ((v0.w >> 28u) & 15u))) - z) * s);
}
fn bias_0(base: u32, row: u32) -> f32 { return 0.0; }
fn word_1(n: u32) -> u32 { return w1[n >> 2u][n & 3u]; }
fn stored_1(start: u32, g: u32) -> f32 { let bits = word_1(start + (g >> 1u)); return unpack2x16float(bits)[g & 1u]; }
fn chunk_1(base: u32, row: u32, c: u32) -> array<vec4<f32>, 8> {
  let start = base + row * P.w1_row_words + c * 4u;
  let v0 = w1[(start >> 2u) + 0u];
  let g = row * P.w1_per_row + (c * 32u) / P.w1_group;
  let s = stored_1(base + P.w1_scale, g);
  let z = stored_1(base + P.w1_zero, g);
  return array<vec4<f32>, 8>(
    (vec4<f32>(vec4<u32>((v0.x & 15u), ((v0.x >> 4u) & 15u), ((v0.x >> 8u) & 15u), ((v0.x >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.x >> 16u) & 15u), ((v0.x >> 20u) & 15u), ((v0.x >> 24u) & 15u), ((v0.x >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.y & 15u), ((v0.y >> 4u) & 15u), ((v0.y >> 8u) & 15u), ((v0.y >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.y >> 16u) & 15u), ((v0.y >> 20u) & 15u), ((v0.y >> 24u) & 15u), ((v0.y >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.z & 15u), ((v0.z >> 4u) & 15u), ((v0.z >> 8u) & 15u), ((v0.z >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.z >> 16u) & 15u), ((v0.z >> 20u) & 15u), ((v0.z >> 24u) & 15u), ((v0.z >> 28u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>((v0.w & 15u), ((v0.w >> 4u) & 15u), ((v0.w >> 8u) & 15u), ((v0.w >> 12u) & 15u))) - z) * s,
    (vec4<f32>(vec4<u32>(((v0.w >> 16u) & 15u), ((v0.w >> 20u) & 15u), ((v0.w >> 24u) & 15u), ((v0.w >> 28u) & 15u))) - z) * s);
}
fn bias_1(base: u32, row: u32) -> f32 { return 0.0; }
fn x_quad(start: u32, k: u32, mean: f32, factor: f32) -> vec4<f32> { return (vec4<f32>(arena[start + k], arena[start + k + 1u], arena[start + k + 2u], arena[start + k + 3u]) - mean) * factor * (vec4<f32>(constants[P.norm_weight + k + 0u], constants[P.norm_weight + k + 1u], constants[P.norm_weight + k + 2u], constants[P.norm_weight + k + 3u]) + P.norm_offset); }
fn activated(x: f32) -> f32 { return x * logistic(x); }
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
var<workgroup> partial: array<f32, 64>;
var<workgroup> partial_others: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let lane = lid % 16u;
  let row = wx * 4u + lid / 16u;
  let base = 0u;
  let count = rows_of(P.x);
  let r0 = min(wid.y * 1u + 0u, count - 1u);
  let x0 = at(P.x) + r0 * P.inp;
  let mean0 = 0.0;
  var squares0 = 0.0;
  for (var k = lid; k < P.inp; k += 64u) { let d = arena[x0 + k] - mean0; squares0 += d * d; }
  let factor0 = 1.0 / sqrt(sum_of_all(squares0, lid) / f32(P.inp) + P.eps);
  var sums: array<f32, 1>;
  var others: array<f32, 1>;
  if (row < P.w0_out) {
    let first = 0u;
    for (var c = lane; c < P.chunks; c += 16u) {
      var w = chunk_0(base, row - first, c);
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        sums[0] += dot(w[j], x_quad(x0, k, mean0, factor0));
      }
    }
    for (var c = lane; c < P.chunks; c += 16u) {
      var w = chunk_1(base, row - first, c);
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        others[0] += dot(w[j], x_quad(x0, k, mean0, factor0));
      }
    }
  }
  workgroupBarrier();
  partial[0 * 64 + lid] = sums[0];
  partial_others[0 * 64 + lid] = others[0];
  workgroupBarrier();
  // Invocation n of each row folds the sums of row n of x.
  for (var n = lane; n < 1u; n += 16u) {
    let r = wid.y * 1u + n;
    if (row >= P.w0_out || r >= count) { continue; }
    let start = n * 64u + lid / 16u * 16u;
    let sum = partial[start + 0u] + partial[start + 1u] + partial[start + 2u] + partial[start + 3u] + partial[start + 4u] + partial[start + 5u] + partial[start + 6u] + partial[start + 7u] + partial[start + 8u] + partial[start + 9u] + partial[start + 10u] + partial[start + 11u] + partial[start + 12u] + partial[start + 13u] + partial[start + 14u] + partial[start + 15u];
    let sum_others = partial_others[start + 0u] + partial_others[start + 1u] + partial_others[start + 2u] + partial_others[start + 3u] + partial_others[start + 4u] + partial_others[start + 5u] + partial_others[start + 6u] + partial_others[start + 7u] + partial_others[start + 8u] + partial_others[start + 9u] + partial_others[start + 10u] + partial_others[start + 11u] + partial_others[start + 12u] + partial_others[start + 13u] + partial_others[start + 14u] + partial_others[start + 15u];
    arena[at(P.out0) + r * P.out0_width + P.out0_at + row] = activated(sum + bias_0(base, row)) * (sum_others + bias_1(base, row));
  }
}
