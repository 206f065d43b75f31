// staged int8 outliers add: int8 bias
struct Params {
  x: u32,
  inp: u32,
  features: u32,
  chunks: u32,
  threshold: f32,
  residual: u32,
  residual_factor: f32,
  factor: f32,
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
  out0: u32,
  out0_width: u32,
  out0_at: u32,
}
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<f32>;
@group(1) @binding(0) var<uniform> P: Params;
@group(1) @binding(1) var<storage, read> w0: array<vec4<u32>>;
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
fn stored_0(start: u32, g: u32) -> f32 { let bits = word_0(start + g); return bitcast<f32>(bits); }
fn chunk_0(base: u32, row: u32, c: u32) -> array<vec4<f32>, 8> {
  let start = base + row * P.w0_row_words + c * 8u;
  let v0 = w0[(start >> 2u) + 0u];
  let v1 = w0[(start >> 2u) + 1u];
  let s = stored_0(base + P.w0_scale, row);
  return array<vec4<f32>, 8>(
    (vec4<f32>(vec4<i32>(vec4<u32>(v0.x << 24u, v0.x << 16u, v0.x << 8u, v0.x)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v0.y << 24u, v0.y << 16u, v0.y << 8u, v0.y)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v0.z << 24u, v0.z << 16u, v0.z << 8u, v0.z)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v0.w << 24u, v0.w << 16u, v0.w << 8u, v0.w)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v1.x << 24u, v1.x << 16u, v1.x << 8u, v1.x)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v1.y << 24u, v1.y << 16u, v1.y << 8u, v1.y)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v1.z << 24u, v1.z << 16u, v1.z << 8u, v1.z)) >> vec4<u32>(24u)) * s) * 0.007874015748031496,
    (vec4<f32>(vec4<i32>(vec4<u32>(v1.w << 24u, v1.w << 16u, v1.w << 8u, v1.w)) >> vec4<u32>(24u)) * s) * 0.007874015748031496);
}
fn bias_0(base: u32, row: u32) -> f32 { return bitcast<f32>(word_0(base + P.w0_bias + row)); }
fn x_of(start: u32, k: u32, mean: f32, factor: f32) -> f32 {
  var y = arena[start + k];
  return y;
}
var<workgroup> reduced: array<f32, 64>;
var<workgroup> folded: array<f32, 16>;
fn sum_of_all(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();
  reduced[lid] = mine;
  workgroupBarrier();
  if (lid < 16u) {
    var part = reduced[lid];
    for (var i = lid + 16u; i < 64u; i += 16u) { part = part + reduced[i]; }
    folded[lid] = part;
  }
  workgroupBarrier();
  var all = folded[0];
  for (var i = 1u; i < 16u; i++) { all = all + folded[i]; }
  return all;
}
fn largest_of_all(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();
  reduced[lid] = mine;
  workgroupBarrier();
  if (lid < 16u) {
    var part = reduced[lid];
    for (var i = lid + 16u; i < 64u; i += 16u) { part = max(part, reduced[i]); }
    folded[lid] = part;
  }
  workgroupBarrier();
  var all = folded[0];
  for (var i = 1u; i < 16u; i++) { all = max(all, folded[i]); }
  return all;
}
var<workgroup> staged: array<vec4<i32>, 256>;
// Of each row what its lanes have summed up.
var<workgroup> partial: array<i32, 512>;
var<workgroup> rest: array<f32, 512>;
var<workgroup> outliers: array<u32, 256>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let lane = lid % 16u;
  let base = 0u;
  let x0 = at(P.x) + wid.y * P.features;
  let mean = 0.0;
  let factor = 1.0;
  var most = 0.0;
  var bad = 0.0;
  var above = 0.0;
  for (var k = lid; k < P.features; k += 64u) {
    let value = round_f16(x_of(x0, k, mean, factor));
    if (not_a_number(value)) { bad = 1.0; }
    if (abs(value) >= P.threshold) { above = 1.0; } else { most = max(most, abs(value)); }
  }
  let largest = largest_of_all(most, lid);
  let scale_x = select(largest, bitcast<f32>(0x7fc00000u + (lid & 0u)), largest_of_all(bad, lid) > 0.0);
  let to_codes = (1.0 / largest) * 127.0;
  let any = largest_of_all(above, lid) > 0.0;
  for (var piece = 0u; piece < P.inp; piece += 1024u) {
    let first = piece / 32u;
    let last = min(P.chunks, first + 32u);
    let quads = (last - first) * 8u;
    workgroupBarrier();
    for (var q = lid; q < quads; q += 64u) {
      var codes = vec4<i32>();
      var bits = 0u;
      for (var j = 0u; j < 4u; j++) {
        let k = piece + 4u * q + j;
        if (k >= P.features) { break; }
        let value = round_f16(x_of(x0, k, mean, factor));
        let own = abs(value) >= P.threshold;
        codes[j] = i32(select(round(value * to_codes), 0.0, own || !(largest > 0.0)));
        bits |= select(0u, 1u << j, own);
      }
      staged[q] = codes;
      outliers[q] = bits;
    }
    workgroupBarrier();
    {
      let begin = (wx - (0u)) * 32u + lid / 16u;
      for (var turn = 0u; turn < 8u; turn++) {
        let row = min(begin + turn * 4u, P.w0_out - 1u);
        let slot = turn * 64u + lid;
        var sum0 = 0;
        for (var n = first * 8u + lane; n < last * 8u; n += 16u) {
          let q = word_0(base + row * P.w0_row_words + n);
          sum0 += dot((vec4<i32>(vec4<u32>(q << 24u, q << 16u, q << 8u, q)) >> vec4<u32>(24u)), staged[n - first * 8u]);
        }
        partial[slot] += sum0;
        if (any) {
          var rest0 = 0.0;
          for (var n = first * 8u + lane; n < last * 8u; n += 16u) {
            let bits = outliers[n - first * 8u];
            if (bits == 0u) { continue; }
            let q = word_0(base + row * P.w0_row_words + n);
            let codes = (vec4<i32>(vec4<u32>(q << 24u, q << 16u, q << 8u, q)) >> vec4<u32>(24u));
            for (var j = 0u; j < 4u; j++) {
              if ((bits & (1u << j)) != 0u) { rest0 += x_of(x0, n * 4u + j, mean, factor) * f32(codes[j]); }
            }
          }
          rest[slot] += rest0;
        }
      }
  }
  }
  workgroupBarrier();
  if (lid >= 32u) { return; }
  {
    let row = (wx - (0u)) * 32u + lid;
    if (row < P.w0_out) {
      let start = lid * 16u;
      var whole_sum = 0;
      for (var l = 0u; l < 16u; l++) { whole_sum += partial[start + l]; }
      let scale_sum = bitcast<f32>(word_0(base + P.w0_scale + row));
      var sum = f32(whole_sum) * scale_x * scale_sum * (1.0 / 16129.0);
      var rest_sum = 0.0;
      for (var l = 0u; l < 16u; l++) { rest_sum += rest[start + l]; }
      sum += rest_sum * scale_sum * 0.007874015748031496;
      let to = at(P.out0) + wid.y * P.out0_width + P.out0_at + row;
      arena[to] = P.residual_factor * arena[at(P.residual) + to - at(P.out0)] + P.factor * (sum + bias_0(base, row));
    }
  }
}
