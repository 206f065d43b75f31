// largest of stretches
enable subgroups;
diagnostic(off, subgroup_uniformity);
struct Params {
  x: u32,
  width: u32,
  count: u32,
  stretches: u32,
  at: u32,
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
fn order_of(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if ((bits & 0x7fffffffu) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
var<workgroup> best_order: array<u32, 64>;
var<workgroup> best_place: array<u32, 64>;
// Whether (order, place) comes after what was chosen last, and may be chosen at all.
fn open(order: u32, place: u32, start: vec2<u32>, nth: u32) -> bool {
  if (nth == 0u) { return true; }
  if (order == 0xffffffffu) { return false; }
  return order < start.x || (order == start.x && place > start.y);
}
fn fold(order: u32, place: u32, lid: u32) {
  workgroupBarrier();
  let rank = subgroupExclusiveAdd(1u);
  let width = subgroupAdd(1u);
  var most = subgroupMax(order);
  var lowest = subgroupMin(select(0xffffffffu, place, order == most));
  best_order[lid] = select(0u, most, rank == 0u);
  best_place[lid] = select(0xffffffffu, lowest, rank == 0u);
  workgroupBarrier();
  var mine = 0u;
  var there = 0xffffffffu;
  for (var i = 0u; i < 64u; i += width) {
    let at = min(i + rank, 63u);
    let other = best_order[at];
    let lower = min(there, best_place[at]);
    there = select(select(there, lower, other == mine), best_place[at], other > mine);
    mine = max(mine, other);
  }
  most = subgroupMax(mine);
  lowest = subgroupMin(select(0xffffffffu, there, mine == most));
  workgroupBarrier();
  if (lid == 0u) {
    best_order[0] = most;
    best_place[0] = lowest;
  }
  workgroupBarrier();
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let begin = wx * 2048u;
  let end = min(P.width, begin + 2048u);
  let start = at(P.x) + wid.y * P.width;
  let out = P.at + (wid.y * P.stretches + wx) * P.count * 2u;
  var chosen = vec2<u32>();
  for (var nth = 0u; nth < P.count; nth++) {
    var order = 0u;
    var place = 0xffffffffu;
    for (var i = begin + lid; i < end; i += 64u) {
      let mine = order_of(bitcast<u32>(arena[start + i]));
      if ((mine > order || place == 0xffffffffu) && open(mine, i, chosen, nth)) { order = mine; place = i; }
    }
    fold(order, place, lid);
    chosen = vec2<u32>(best_order[0], best_place[0]);
    if (lid == 0u) {
      let found = chosen.y != 0xffffffffu;
      kv[out + nth * 2u] = select(0xff800000u, bitcast<u32>(arena[start + min(chosen.y, P.width - 1u)]), found);
      kv[out + nth * 2u + 1u] = chosen.y;
    }
    workgroupBarrier();
  }
}
