// Normalisation of rows, or of equal parts of rows (one norm per head).

/** Settings of one norm, its constants widened. */
export interface NormSettings {
  readonly kind: 'rms' | 'layer';
  readonly eps: number;
  readonly groups: number;
  readonly weight: Float32Array | undefined;
  readonly weightOffset: 0 | 1;
  readonly bias: Float32Array | undefined;
}

/**
 * rms: x / sqrt(mean(x^2) + eps); layer: (x - mean) / sqrt(var + eps) with the variance over n, not n - 1. Then * (weight + weightOffset) + bias.
 * weight and bias have the width of the row or of one part.
 */
export function norm(x: Float32Array, width: number, settings: NormSettings): Float32Array {
  const { kind, eps, groups, weight, weightOffset, bias } = settings;
  const out = new Float32Array(x.length);
  const part = width / groups;
  for (let at = 0; at < x.length; at += part) {
    let mean = 0;
    if (kind === 'layer') {
      for (let i = at; i < at + part; i++) mean += x[i]!;
      mean /= part;
    }
    let squares = 0;
    for (let i = at; i < at + part; i++) squares += (x[i]! - mean) ** 2;
    const factor = 1 / Math.sqrt(squares / part + eps);
    for (let i = at; i < at + part; i++) {
      const column = i - at + (at % width);
      let y = (x[i]! - mean) * factor;
      if (weight) y *= weight[weight.length === width ? column : i - at]! + weightOffset;
      if (bias) y += bias[bias.length === width ? column : i - at]!;
      out[i] = y;
    }
  }
  return out;
}
