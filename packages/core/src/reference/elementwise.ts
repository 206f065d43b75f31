// Operations that treat every element by itself. Computed in float64, rounded to float32 once.

import type { Activation } from '../spec/program.ts';

/**
 * Error function by its series of positive terms, 2/sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (2n+1)!! (Abramowitz and Stegun 7.1.6):
 * no cancellation, so it is exact to a few units in the last place of float64.
 */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** The activation functions, on float64. */
export const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x * sigmoid(x),
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(0, x),
  relu2: (x) => Math.max(0, x) ** 2,
  sigmoid,
  tanh: Math.tanh,
  identity: (x) => x,
};

export function activate(x: Float32Array, kind: Activation): Float32Array {
  const act = ACTIVATIONS[kind];
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = act(x[i]!);
  return out;
}

/** act(gate) * x; `gateWidth` is 1 or the width of x. */
export function gate(gates: Float32Array, gateWidth: number, x: Float32Array, width: number, kind: Activation): Float32Array {
  const act = ACTIVATIONS[kind];
  const out = new Float32Array(x.length);
  const rows = x.length / width;
  for (let row = 0; row < rows; row++) {
    const one = gateWidth === 1 ? act(gates[row]!) : 0;
    for (let i = row * width; i < (row + 1) * width; i++) out[i] = (gateWidth === 1 ? one : act(gates[i]!)) * x[i]!;
  }
  return out;
}

/** a + factor * b. */
export function add(a: Float32Array, b: Float32Array, factor: number): Float32Array {
  const out = new Float32Array(a.length);
  for (let i = 0; i < a.length; i++) out[i] = a[i]! + factor * b[i]!;
  return out;
}

export function scale(x: Float32Array, factor: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = x[i]! * factor;
  return out;
}

/** cap * tanh(x / cap). */
export function softcap(x: Float32Array, cap: number): Float32Array {
  const out = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) out[i] = cap * Math.tanh(x[i]! / cap);
  return out;
}

/** `width` elements at `offset` of each of `groups` parts of each row, concatenated. */
export function slice(x: Float32Array, rowWidth: number, groups: number, offset: number, width: number): Float32Array {
  const part = rowWidth / groups;
  const parts = (x.length / rowWidth) * groups;
  const out = new Float32Array(parts * width);
  for (let i = 0; i < parts; i++) out.set(x.subarray(i * part + offset, i * part + offset + width), i * width);
  return out;
}
