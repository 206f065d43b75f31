// Numbers: rounding to 16 bits as IEEE does it, which `pack2x16float` need not, and functions that WGSL lacks or leaves inaccurate. What NaN is, bits say: a compiler
// of WGSL may take it that there are none, and make `x != x` false.

export const FLOATS = `
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
}`;

/** Names of activations as functions of WGSL, in terms of `x`. */
export const ACTIVATED = {
  silu: 'x * logistic(x)',
  gelu: '0.5 * x * (1.0 + erf_of(x * 0.70710678118654752))',
  gelu_tanh: '0.5 * x * (1.0 + tanh_of(0.79788456080286536 * (x + 0.044715 * x * x * x)))',
  quick_gelu: 'x * logistic(1.702 * x)',
  relu: 'select(0.0, x, x > 0.0 || not_a_number(x))',
  relu2: 'select(0.0, x * x, x > 0.0 || not_a_number(x))',
  sigmoid: 'logistic(x)',
  tanh: 'tanh_of(x)',
  identity: 'x',
} as const;

export function activation(kind: keyof typeof ACTIVATED): string {
  return `fn activated(x: f32) -> f32 { return ${ACTIVATED[kind]}; }`;
}
