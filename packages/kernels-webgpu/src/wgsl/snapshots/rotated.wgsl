// staged rotate 512 rms weight store: table2 f16 4b chunk f16 | table2 f16 4b chunk f16 | table2 f16 4b chunk f16
struct Params {
  x: u32,
  inp: u32,
  features: u32,
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
  w2_out: u32,
  w2_row_words: u32,
  w2_scale: u32,
  w2_zero: u32,
  w2_table: u32,
  w2_bias: u32,
  w2_group: u32,
  w2_groups: u32,
  w2_per_row: u32,
  w2_row0: u32,
  w2_group0: u32,
  out0: u32,
  out0_width: u32,
  out0_at: u32,
  out1: u32,
  out1_width: u32,
  out1_at: u32,
  out2: u32,
  out2_width: u32,
  out2_at: u32,
}
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<f32>;
@group(1) @binding(0) var<uniform> P: Params;
@group(1) @binding(1) var<storage, read> w0: array<vec4<u32>>;
@group(1) @binding(2) var<storage, read> w1: array<vec4<u32>>;
@group(1) @binding(3) var<storage, read> w2: array<vec4<u32>>;
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
var<workgroup> table_0: array<f32, 512>;
fn pairs_0(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(table_0[2u * a], table_0[2u * a + 1u], table_0[2u * b], table_0[2u * b + 1u]); }
fn round4_0(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let size = bitcast<vec4<i32>>(bits & vec4<u32>(0x7fffffffu));
  let whole = bitcast<vec4<f32>>((bits + 0xfffu + ((bits >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0xffffe000u));
  let small = round(v * 16777216.0) * 5.9604644775390625e-8;
  let large = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | bitcast<vec4<u32>>(max(size, vec4<i32>(0x7f800000))));
  return select(select(whole, small, size < vec4<i32>(0x38800000)), large, size > vec4<i32>(0x477fefff));
}
fn dots_0(base: u32, row: u32, c: u32, at: u32) -> f32 {
  let start = base + row * P.w0_row_words + c * 4u;
  let v0 = w0[(start >> 2u) + 0u];
  let g = row * P.w0_per_row + (c * 32u) / P.w0_group;
  let s = stored_0(base + P.w0_scale, g);
  return dot(round4_0(pairs_0((v0.x & 255u), ((v0.x >> 8u) & 255u)) * s), staged[at + 0u])
    + dot(round4_0(pairs_0(((v0.x >> 16u) & 255u), ((v0.x >> 24u) & 255u)) * s), staged[at + 1u])
    + dot(round4_0(pairs_0((v0.y & 255u), ((v0.y >> 8u) & 255u)) * s), staged[at + 2u])
    + dot(round4_0(pairs_0(((v0.y >> 16u) & 255u), ((v0.y >> 24u) & 255u)) * s), staged[at + 3u])
    + dot(round4_0(pairs_0((v0.z & 255u), ((v0.z >> 8u) & 255u)) * s), staged[at + 4u])
    + dot(round4_0(pairs_0(((v0.z >> 16u) & 255u), ((v0.z >> 24u) & 255u)) * s), staged[at + 5u])
    + dot(round4_0(pairs_0((v0.w & 255u), ((v0.w >> 8u) & 255u)) * s), staged[at + 6u])
    + dot(round4_0(pairs_0(((v0.w >> 16u) & 255u), ((v0.w >> 24u) & 255u)) * s), staged[at + 7u]);
}
fn bias_0(base: u32, row: u32) -> f32 { return 0.0; }
fn word_1(n: u32) -> u32 { return w1[n >> 2u][n & 3u]; }
fn stored_1(start: u32, g: u32) -> f32 { let bits = word_1(start + (g >> 1u)); return unpack2x16float(bits)[g & 1u]; }
var<workgroup> table_1: array<f32, 512>;
fn pairs_1(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(table_1[2u * a], table_1[2u * a + 1u], table_1[2u * b], table_1[2u * b + 1u]); }
fn round4_1(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let size = bitcast<vec4<i32>>(bits & vec4<u32>(0x7fffffffu));
  let whole = bitcast<vec4<f32>>((bits + 0xfffu + ((bits >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0xffffe000u));
  let small = round(v * 16777216.0) * 5.9604644775390625e-8;
  let large = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | bitcast<vec4<u32>>(max(size, vec4<i32>(0x7f800000))));
  return select(select(whole, small, size < vec4<i32>(0x38800000)), large, size > vec4<i32>(0x477fefff));
}
fn dots_1(base: u32, row: u32, c: u32, at: u32) -> f32 {
  let start = base + row * P.w1_row_words + c * 4u;
  let v0 = w1[(start >> 2u) + 0u];
  let g = row * P.w1_per_row + (c * 32u) / P.w1_group;
  let s = stored_1(base + P.w1_scale, g);
  return dot(round4_1(pairs_1((v0.x & 255u), ((v0.x >> 8u) & 255u)) * s), staged[at + 0u])
    + dot(round4_1(pairs_1(((v0.x >> 16u) & 255u), ((v0.x >> 24u) & 255u)) * s), staged[at + 1u])
    + dot(round4_1(pairs_1((v0.y & 255u), ((v0.y >> 8u) & 255u)) * s), staged[at + 2u])
    + dot(round4_1(pairs_1(((v0.y >> 16u) & 255u), ((v0.y >> 24u) & 255u)) * s), staged[at + 3u])
    + dot(round4_1(pairs_1((v0.z & 255u), ((v0.z >> 8u) & 255u)) * s), staged[at + 4u])
    + dot(round4_1(pairs_1(((v0.z >> 16u) & 255u), ((v0.z >> 24u) & 255u)) * s), staged[at + 5u])
    + dot(round4_1(pairs_1((v0.w & 255u), ((v0.w >> 8u) & 255u)) * s), staged[at + 6u])
    + dot(round4_1(pairs_1(((v0.w >> 16u) & 255u), ((v0.w >> 24u) & 255u)) * s), staged[at + 7u]);
}
fn bias_1(base: u32, row: u32) -> f32 { return 0.0; }
fn word_2(n: u32) -> u32 { return w2[n >> 2u][n & 3u]; }
fn stored_2(start: u32, g: u32) -> f32 { let bits = word_2(start + (g >> 1u)); return unpack2x16float(bits)[g & 1u]; }
var<workgroup> table_2: array<f32, 512>;
fn pairs_2(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(table_2[2u * a], table_2[2u * a + 1u], table_2[2u * b], table_2[2u * b + 1u]); }
fn round4_2(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let size = bitcast<vec4<i32>>(bits & vec4<u32>(0x7fffffffu));
  let whole = bitcast<vec4<f32>>((bits + 0xfffu + ((bits >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0xffffe000u));
  let small = round(v * 16777216.0) * 5.9604644775390625e-8;
  let large = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | bitcast<vec4<u32>>(max(size, vec4<i32>(0x7f800000))));
  return select(select(whole, small, size < vec4<i32>(0x38800000)), large, size > vec4<i32>(0x477fefff));
}
fn dots_2(base: u32, row: u32, c: u32, at: u32) -> f32 {
  let start = base + row * P.w2_row_words + c * 4u;
  let v0 = w2[(start >> 2u) + 0u];
  let g = row * P.w2_per_row + (c * 32u) / P.w2_group;
  let s = stored_2(base + P.w2_scale, g);
  return dot(round4_2(pairs_2((v0.x & 255u), ((v0.x >> 8u) & 255u)) * s), staged[at + 0u])
    + dot(round4_2(pairs_2(((v0.x >> 16u) & 255u), ((v0.x >> 24u) & 255u)) * s), staged[at + 1u])
    + dot(round4_2(pairs_2((v0.y & 255u), ((v0.y >> 8u) & 255u)) * s), staged[at + 2u])
    + dot(round4_2(pairs_2(((v0.y >> 16u) & 255u), ((v0.y >> 24u) & 255u)) * s), staged[at + 3u])
    + dot(round4_2(pairs_2((v0.z & 255u), ((v0.z >> 8u) & 255u)) * s), staged[at + 4u])
    + dot(round4_2(pairs_2(((v0.z >> 16u) & 255u), ((v0.z >> 24u) & 255u)) * s), staged[at + 5u])
    + dot(round4_2(pairs_2((v0.w & 255u), ((v0.w >> 8u) & 255u)) * s), staged[at + 6u])
    + dot(round4_2(pairs_2(((v0.w >> 16u) & 255u), ((v0.w >> 24u) & 255u)) * s), staged[at + 7u]);
}
fn bias_2(base: u32, row: u32) -> f32 { return 0.0; }
fn x_of(start: u32, k: u32, mean: f32, factor: f32) -> f32 {
  var y = (arena[start + k] - mean) * factor;
  y *= constants[P.norm_weight + k] + P.norm_offset;
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
var<workgroup> staged: array<vec4<f32>, 256>;
// Of each row what its lanes have summed up.
var<workgroup> partial: array<f32, 512>;
fn filled(start: u32, k: u32, mean: f32, factor: f32) -> f32 { return select(0.0, x_of(start, min(k, P.features - 1u), mean, factor), k < P.features); }
fn turned_quad(start: u32, k: u32, mean: f32, factor: f32) -> vec4<f32> {
  let a = filled(start, k, mean, factor);
  let b = filled(start, k + 1u, mean, factor);
  let c = filled(start, k + 2u, mean, factor);
  let d = filled(start, k + 3u, mean, factor);
  return vec4<f32>((a + b) + (c + d), (a - b) + (c - d), (a + b) - (c + d), (a - b) - (c - d));
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * 32768u;
  let lane = lid % 16u;
  let base = 0u;
  let x0 = at(P.x) + wid.y * P.features;
  if (wx < ((P.w0_out + 31u) / 32u)) {
  for (var n = lid; n < 512u; n += 64u) { table_0[n] = bitcast<f32>(word_0(base + P.w0_table + n)); }
  workgroupBarrier();
  } else if (wx < ((P.w0_out + 31u) / 32u) + ((P.w1_out + 31u) / 32u)) {
  for (var n = lid; n < 512u; n += 64u) { table_1[n] = bitcast<f32>(word_1(base + P.w1_table + n)); }
  workgroupBarrier();
  } else {
  for (var n = lid; n < 512u; n += 64u) { table_2[n] = bitcast<f32>(word_2(base + P.w2_table + n)); }
  workgroupBarrier();
  }
  let mean = 0.0;
  var squares = 0.0;
  for (var k = lid; k < P.features; k += 64u) { let d = arena[x0 + k] - mean; squares += d * d; }
  let factor = 1.0 / sqrt(sum_of_all(squares, lid) / f32(P.features) + P.eps);
  for (var piece = 0u; piece < P.inp; piece += 1024u) {
    let first = piece / 32u;
    let last = min(P.chunks, first + 32u);
    let quads = (last - first) * 8u;
    workgroupBarrier();
    for (var t = lid; t < quads / 4u; t += 64u) {
      let place = ((t / 1u) * 4u) + t % 1u;
      var a0 = turned_quad(x0, piece + 4u * (place), mean, factor);
      var a1 = turned_quad(x0, piece + 4u * (place + 1u), mean, factor);
      var a2 = turned_quad(x0, piece + 4u * (place + 2u), mean, factor);
      var a3 = turned_quad(x0, piece + 4u * (place + 3u), mean, factor);
      { let x = a0; let y = a1; a0 = x + y; a1 = x - y; }
      { let x = a2; let y = a3; a2 = x + y; a3 = x - y; }
      { let x = a0; let y = a2; a0 = x + y; a2 = x - y; }
      { let x = a1; let y = a3; a1 = x + y; a3 = x - y; }
      staged[place] = a0;
      staged[place + 1u] = a1;
      staged[place + 2u] = a2;
      staged[place + 3u] = a3;
    }
    workgroupBarrier();
    for (var t = lid; t < quads / 4u; t += 64u) {
      let place = ((t / 4u) * 16u) + t % 4u;
      var a0 = staged[place];
      var a1 = staged[place + 4u];
      var a2 = staged[place + 8u];
      var a3 = staged[place + 12u];
      { let x = a0; let y = a1; a0 = x + y; a1 = x - y; }
      { let x = a2; let y = a3; a2 = x + y; a3 = x - y; }
      { let x = a0; let y = a2; a0 = x + y; a2 = x - y; }
      { let x = a1; let y = a3; a1 = x + y; a3 = x - y; }
      staged[place] = a0;
      staged[place + 4u] = a1;
      staged[place + 8u] = a2;
      staged[place + 12u] = a3;
    }
    workgroupBarrier();
    for (var t = lid; t < quads / 8u; t += 64u) {
      let place = ((t / 16u) * 128u) + t % 16u;
      var a0 = staged[place];
      var a1 = staged[place + 16u];
      var a2 = staged[place + 32u];
      var a3 = staged[place + 48u];
      var a4 = staged[place + 64u];
      var a5 = staged[place + 80u];
      var a6 = staged[place + 96u];
      var a7 = staged[place + 112u];
      { let x = a0; let y = a1; a0 = x + y; a1 = x - y; }
      { let x = a2; let y = a3; a2 = x + y; a3 = x - y; }
      { let x = a4; let y = a5; a4 = x + y; a5 = x - y; }
      { let x = a6; let y = a7; a6 = x + y; a7 = x - y; }
      { let x = a0; let y = a2; a0 = x + y; a2 = x - y; }
      { let x = a1; let y = a3; a1 = x + y; a3 = x - y; }
      { let x = a4; let y = a6; a4 = x + y; a6 = x - y; }
      { let x = a5; let y = a7; a5 = x + y; a7 = x - y; }
      { let x = a0; let y = a4; a0 = x + y; a4 = x - y; }
      { let x = a1; let y = a5; a1 = x + y; a5 = x - y; }
      { let x = a2; let y = a6; a2 = x + y; a6 = x - y; }
      { let x = a3; let y = a7; a3 = x + y; a7 = x - y; }
      staged[place] = a0 * 0.044194173824159216;
      staged[place + 16u] = a1 * 0.044194173824159216;
      staged[place + 32u] = a2 * 0.044194173824159216;
      staged[place + 48u] = a3 * 0.044194173824159216;
      staged[place + 64u] = a4 * 0.044194173824159216;
      staged[place + 80u] = a5 * 0.044194173824159216;
      staged[place + 96u] = a6 * 0.044194173824159216;
      staged[place + 112u] = a7 * 0.044194173824159216;
    }
    workgroupBarrier();
    if (wx < ((P.w0_out + 31u) / 32u)) {
      let begin = (wx - (0u)) * 32u + lid / 16u;
      for (var turn = 0u; turn < 8u; turn++) {
        let row = min(begin + turn * 4u, P.w0_out - 1u);
        let slot = turn * 64u + lid;
        var sum0 = 0.0;
        for (var c = first + lane; c < last; c += 16u) { sum0 += dots_0(base, row, c, (c - first) * 8u); }
        partial[slot] += sum0;
      }
  } else if (wx < ((P.w0_out + 31u) / 32u) + ((P.w1_out + 31u) / 32u)) {
      let begin = (wx - (((P.w0_out + 31u) / 32u))) * 32u + lid / 16u;
      for (var turn = 0u; turn < 8u; turn++) {
        let row = min(begin + turn * 4u, P.w1_out - 1u);
        let slot = turn * 64u + lid;
        var sum0 = 0.0;
        for (var c = first + lane; c < last; c += 16u) { sum0 += dots_1(base, row, c, (c - first) * 8u); }
        partial[slot] += sum0;
      }
  } else {
      let begin = (wx - (((P.w0_out + 31u) / 32u) + ((P.w1_out + 31u) / 32u))) * 32u + lid / 16u;
      for (var turn = 0u; turn < 8u; turn++) {
        let row = min(begin + turn * 4u, P.w2_out - 1u);
        let slot = turn * 64u + lid;
        var sum0 = 0.0;
        for (var c = first + lane; c < last; c += 16u) { sum0 += dots_2(base, row, c, (c - first) * 8u); }
        partial[slot] += sum0;
      }
  }
  }
  workgroupBarrier();
  if (lid >= 32u) { return; }
  if (wx < ((P.w0_out + 31u) / 32u)) {
    let row = (wx - (0u)) * 32u + lid;
    if (row < P.w0_out) {
      let start = lid * 16u;
      var sum = 0.0;
      for (var l = 0u; l < 16u; l++) { sum += partial[start + l]; }
      arena[at(P.out0) + wid.y * P.out0_width + P.out0_at + row] = sum + bias_0(base, row);
    }
  } else if (wx < ((P.w0_out + 31u) / 32u) + ((P.w1_out + 31u) / 32u)) {
    let row = (wx - (((P.w0_out + 31u) / 32u))) * 32u + lid;
    if (row < P.w1_out) {
      let start = lid * 16u;
      var sum = 0.0;
      for (var l = 0u; l < 16u; l++) { sum += partial[start + l]; }
      arena[at(P.out1) + wid.y * P.out1_width + P.out1_at + row] = sum + bias_1(base, row);
    }
  } else {
    let row = (wx - (((P.w0_out + 31u) / 32u) + ((P.w1_out + 31u) / 32u))) * 32u + lid;
    if (row < P.w2_out) {
      let start = lid * 16u;
      var sum = 0.0;
      for (var l = 0u; l < 16u; l++) { sum += partial[start + l]; }
      arena[at(P.out2) + wid.y * P.out2_width + P.out2_at + row] = sum + bias_2(base, row);
    }
  }
}
