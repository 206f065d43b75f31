// gemm store: affine 4b chunk f16
enable f16;
struct Params {
  x: u32,
  inp: u32,
  chunks: u32,
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
fn stored_0(start: u32, g: u32) -> f32 { let bits = word_0(start + (g >> 1u)); return unpack2x16float(bits)[g & 1u]; }
fn pair_0(bits: u32) -> vec2<f16> { return bitcast<vec2<f16>>((bits & 983055u) | 0x64006400u) - vec2<f16>(1024.0h); }
fn chunk_0(base: u32, row: u32, c: u32) -> array<vec4<f32>, 8> {
  let start = base + row * P.w0_row_words + c * 4u;
  let v0 = w0[(start >> 2u) + 0u];
  let g = row * P.w0_per_row + (c * 32u) / P.w0_group;
  let s = stored_0(base + P.w0_scale, g);
  let z = stored_0(base + P.w0_zero, g);
  let p0 = pair_0(v0.x);
  let p1 = pair_0(v0.x >> 4u);
  let p2 = pair_0(v0.x >> 8u);
  let p3 = pair_0(v0.x >> 12u);
  let p4 = pair_0(v0.y);
  let p5 = pair_0(v0.y >> 4u);
  let p6 = pair_0(v0.y >> 8u);
  let p7 = pair_0(v0.y >> 12u);
  let p8 = pair_0(v0.z);
  let p9 = pair_0(v0.z >> 4u);
  let p10 = pair_0(v0.z >> 8u);
  let p11 = pair_0(v0.z >> 12u);
  let p12 = pair_0(v0.w);
  let p13 = pair_0(v0.w >> 4u);
  let p14 = pair_0(v0.w >> 8u);
  let p15 = pair_0(v0.w >> 12u);
  return array<vec4<f32>, 8>(
    (vec4<f32>(vec4<f16>(p0.x, p1.x, p2.x, p3.x)) - z) * s,
    (vec4<f32>(vec4<f16>(p0.y, p1.y, p2.y, p3.y)) - z) * s,
    (vec4<f32>(vec4<f16>(p4.x, p5.x, p6.x, p7.x)) - z) * s,
    (vec4<f32>(vec4<f16>(p4.y, p5.y, p6.y, p7.y)) - z) * s,
    (vec4<f32>(vec4<f16>(p8.x, p9.x, p10.x, p11.x)) - z) * s,
    (vec4<f32>(vec4<f16>(p8.y, p9.y, p10.y, p11.y)) - z) * s,
    (vec4<f32>(vec4<f16>(p12.x, p13.x, p14.x, p15.x)) - z) * s,
    (vec4<f32>(vec4<f16>(p12.y, p13.y, p14.y, p15.y)) - z) * s);
}
fn bias_0(base: u32, row: u32) -> f32 { return 0.0; }
fn halves_0(base: u32, row: u32, c: u32) -> array<vec4<f16>, 8> {
  let start = base + row * P.w0_row_words + c * 4u;
  let v0 = w0[(start >> 2u) + 0u];
  let p0 = pair_0(v0.x);
  let p1 = pair_0(v0.x >> 4u);
  let p2 = pair_0(v0.x >> 8u);
  let p3 = pair_0(v0.x >> 12u);
  let p4 = pair_0(v0.y);
  let p5 = pair_0(v0.y >> 4u);
  let p6 = pair_0(v0.y >> 8u);
  let p7 = pair_0(v0.y >> 12u);
  let p8 = pair_0(v0.z);
  let p9 = pair_0(v0.z >> 4u);
  let p10 = pair_0(v0.z >> 8u);
  let p11 = pair_0(v0.z >> 12u);
  let p12 = pair_0(v0.w);
  let p13 = pair_0(v0.w >> 4u);
  let p14 = pair_0(v0.w >> 8u);
  let p15 = pair_0(v0.w >> 12u);
  return array<vec4<f16>, 8>(
    vec4<f16>(p0.x, p1.x, p2.x, p3.x),
    vec4<f16>(p0.y, p1.y, p2.y, p3.y),
    vec4<f16>(p4.x, p5.x, p6.x, p7.x),
    vec4<f16>(p4.y, p5.y, p6.y, p7.y),
    vec4<f16>(p8.x, p9.x, p10.x, p11.x),
    vec4<f16>(p8.y, p9.y, p10.y, p11.y),
    vec4<f16>(p12.x, p13.x, p14.x, p15.x),
    vec4<f16>(p12.y, p13.y, p14.y, p15.y));
}
fn grid_0(base: u32, row: u32, c: u32) -> vec2<f32> {
  let g = row * P.w0_per_row + (c * 32u) / P.w0_group;
  return vec2<f32>(stored_0(base + P.w0_scale, g), stored_0(base + P.w0_zero, g));
}
var<workgroup> wt: array<vec4<f16>, 256>;
var<workgroup> xt: array<vec4<f32>, 256>;
var<workgroup> grids: array<vec2<f32>, 32>;
var<workgroup> x_sums: array<f32, 32>;
fn x_number(start: u32, k: u32) -> f32 { return arena[start + k]; }
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let base = 0u;
  let count = rows_of(P.x);
  var sums: array<vec4<f32>, 4>;
  let tx = lid % 8u;
  let ty = lid / 8u;
  for (var c = 0u; c < P.chunks; c++) {
    workgroupBarrier();
    // Half of the invocations bring a row of weights each, the others a row of x.
    let mine = lid % 32u;
    if (lid < 32u) {
      let row = min(wx * 32u + mine, P.w0_out - 1u);
      var w = halves_0(base, row, c);
      for (var j = 0u; j < 8u; j++) { wt[mine * 8u + j] = w[j]; }
      grids[mine] = grid_0(base, row, c);
    } else {
      let start = at(P.x) + min(wid.y * 32u + mine, count - 1u) * P.inp;
      var total = vec4<f32>();
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        xt[mine * 8u + j] = vec4<f32>(x_number(start, k), x_number(start, k + 1u), x_number(start, k + 2u), x_number(start, k + 3u));
        total += xt[mine * 8u + j];
      }
      x_sums[mine] = total.x + total.y + total.z + total.w;
    }
    workgroupBarrier();
    var chunk = array<vec4<f32>, 4>();
    for (var j = 0u; j < 8u; j++) {
      let a0 = vec4<f32>(wt[(tx * 4u + 0u) * 8u + j]); let a1 = vec4<f32>(wt[(tx * 4u + 1u) * 8u + j]); let a2 = vec4<f32>(wt[(tx * 4u + 2u) * 8u + j]); let a3 = vec4<f32>(wt[(tx * 4u + 3u) * 8u + j]);
      for (var n = 0u; n < 4u; n++) {
        let b = xt[(ty * 4u + n) * 8u + j];
        chunk[n] += vec4<f32>(dot(a0, b), dot(a1, b), dot(a2, b), dot(a3, b));
      }
    }
    let g0 = grids[tx * 4u + 0u]; let g1 = grids[tx * 4u + 1u]; let g2 = grids[tx * 4u + 2u]; let g3 = grids[tx * 4u + 3u];
    let scales = vec4<f32>(g0.x, g1.x, g2.x, g3.x);
    let zeros = vec4<f32>(g0.y, g1.y, g2.y, g3.y);
    for (var n = 0u; n < 4u; n++) { sums[n] += (chunk[n] - zeros * x_sums[ty * 4u + n]) * scales; }
  }
  for (var n = 0u; n < 4u; n++) {
    let r = wid.y * 32u + ty * 4u + n;
    for (var m = 0u; m < 4u; m++) {
      let row = wx * 32u + tx * 4u + m;
      if (r < count && row < P.w0_out) {
        let value = sums[n][m] + bias_0(base, row);
        let to = at(P.out0) + r * P.out0_width + P.out0_at + row;
        arena[to] = value;
      }
    }
  }
}
