// product x1 rms gate silu: affine 4b chunk f16 | affine 4b chunk f16
enable subgroups;
diagnostic(off, subgroup_uniformity);
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
fn sum_of_all(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();
  let rank = subgroupExclusiveAdd(1u);
  let width = subgroupAdd(1u);
  let together = subgroupAdd(mine);
  reduced[lid] = select(0.0, together, rank == 0u);
  workgroupBarrier();
  var value = 0.0;
  for (var i = 0u; i < 64u; i += width) { value = value + select(0.0, reduced[min(i + rank, 63u)], i + rank < 64u); }
  return subgroupAdd(value);
}
fn largest_of_all(mine: f32, lid: u32) -> f32 {
  workgroupBarrier();
  let rank = subgroupExclusiveAdd(1u);
  let width = subgroupAdd(1u);
  let together = subgroupMax(mine);
  reduced[lid] = select(-3.4028234e38, together, rank == 0u);
  workgroupBarrier();
  var value = -3.4028234e38;
  for (var i = 0u; i < 64u; i += width) { value = max(value, select(-3.4028234e38, reduced[min(i + rank, 63u)], i + rank < 64u)); }
  return subgroupMax(value);
}
// Bits of the first invocation of each subgroup: subgroups are numbered by them.
var<workgroup> firsts: array<atomic<u32>, 2>;
struct Team { rank: u32, width: u32, index: u32, teams: u32, part: u32, split: u32 }
fn team_of(lid: u32) -> Team {
  let rank = subgroupExclusiveAdd(1u);
  let width = subgroupAdd(1u);
  let first = subgroupMin(lid);
  if (rank == 0u) { atomicOr(&firsts[first / 32u], 1u << (first % 32u)); }
  workgroupBarrier();
  var count = 0u;
  var before = 0u;
  for (var i = 0u; i < 2u; i++) {
    let bits = atomicLoad(&firsts[i]);
    count += countOneBits(bits);
    let lower = select(0u, bits & ((1u << (first % 32u)) - 1u), i == first / 32u);
    before += countOneBits(select(lower, bits, i < first / 32u));
  }
  let split = max(1u, count / 4u);
  return Team(rank, width, before / split, count / split, before % split, split);
}
var<workgroup> partial: array<f32, 64>;
var<workgroup> partial_others: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let lane = lid % 16u;
  let base = 0u;
  let count = rows_of(P.x);
  let r0 = min(wid.y * 1u + 0u, count - 1u);
  let x0 = at(P.x) + r0 * P.inp;
  let mean0 = 0.0;
  var squares0 = 0.0;
  for (var k = lid; k < P.inp; k += 64u) { let d = arena[x0 + k] - mean0; squares0 += d * d; }
  let factor0 = 1.0 / sqrt(sum_of_all(squares0, lid) / f32(P.inp) + P.eps);
  let team = team_of(lid);
  for (var turn = 0u; turn < 4u; turn++) {
    let place = turn * team.teams + team.index;
    let mine = team.index < team.teams && place < 4u;
    let row = select(0xffffffffu, wx * 4u + place, mine);
    var sums = array<f32, 1>();
    var others = array<f32, 1>();
  if (row < P.w0_out) {
    let first = 0u;
    for (var c = team.rank * team.split + team.part; c < P.chunks; c += team.width * team.split) {
      var w = chunk_0(base, row - first, c);
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        sums[0] += dot(w[j], x_quad(x0, k, mean0, factor0));
      }
    }
    for (var c = team.rank * team.split + team.part; c < P.chunks; c += team.width * team.split) {
      var w = chunk_1(base, row - first, c);
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        others[0] += dot(w[j], x_quad(x0, k, mean0, factor0));
      }
    }
  }
    workgroupBarrier();
    let partial0 = subgroupAdd(sums[0]);
    if (mine && team.rank == 0u) { partial[0u + place * 16u + team.part] = partial0; }
    let partial_others0 = subgroupAdd(others[0]);
    if (mine && team.rank == 0u) { partial_others[0u + place * 16u + team.part] = partial_others0; }
  }
  workgroupBarrier();
  let row = wx * 4u + lid / 16u;
  // Invocation n of each row folds the sums of row n of x.
  for (var n = lane; n < 1u; n += 16u) {
    let r = wid.y * 1u + n;
    if (row >= P.w0_out || r >= count) { continue; }
    let start = n * 64u + lid / 16u * 16u;
    var sum = 0.0;
    for (var p = 0u; p < team.split; p++) { sum += partial[start + p]; }
    var sum_others = 0.0;
    for (var p = 0u; p < team.split; p++) { sum_others += partial_others[start + p]; }
    arena[at(P.out0) + r * P.out0_width + P.out0_at + row] = activated(sum + bias_0(base, row)) * (sum_others + bias_1(base, row));
  }
}
