// @ts-check
// A method as a stranger writes it: weights rounded to the nearest of 16 or 256 equal steps, one scale for each group (RTN). Its format is core's `affine`, so every backend
// runs what it makes; its layout says which tensors a folder has for it.
import { checkOptionNames, codecFor, DTYPE_BYTES, LowbitError, toFloat32, writeFloat32 } from '@lowbit/core';

/** @import { CheckpointLayout, DType, Matrix, Quantizer, StoredLinear } from '@lowbit/core' */
/** @typedef {{ readonly bits?: 4 | 8 | undefined, readonly group?: number | undefined }} RtnOptions */

const METHOD = 'rtn';
const PACKAGE = 'lowbit-method-rtn';

/**
 * @param {RtnOptions} [options] `bits` 4 (default) or 8; `group`, weights that share a scale, an even number (default 32)
 * @returns {Quantizer}
 */
export function rtn(options = {}) {
  checkOptionNames(METHOD, options, ['bits', 'group']);
  const { bits = 4, group = 32 } = options;
  if (bits !== 4 && bits !== 8) throw refuse(`has no ${bits} bits`, 'Give 4 or 8 as bits.', { bits });
  if (!Number.isInteger(group) || group < 2 || group % 2 !== 0)
    throw refuse(`has no groups of ${group}`, 'Give an even number as group.', { group });
  return {
    spec: 1,
    method: METHOD,
    config: { bits, group },
    identity: `${METHOD} 1 b${bits} g${group}`,
    usesImportance: false,
    format: (_shape, metaDtype) => formatOf(bits, group, metaDtype),
    async quantize(weight, format, out, { budget, signal, onWeights }) {
      if (format.kind !== 'affine') throw refuse(`does not make ${format.kind}`, 'Pass the format that it gave.', {});
      codecFor(format).parts(format, weight.shape); // refuses groups that do not fit
      const half = format.levels / 2;
      const dtype = /** @type {DType} */ (format.scale);
      const count = weight.shape[0] * weight.shape[1];
      const groups = count / group;
      // Numbers and codes of a tile: 5 bytes each, with as much again to spare.
      const tile = Math.max(1, Math.floor(Math.min(budget, 1 << 22) / (10 * group)));
      const numbers = new Float32Array(Math.min(tile, groups) * group);
      let [squaredError, squaredWeight, maxAbs] = [0, 0, 0];
      for (let from = 0; from < groups; from += tile) {
        signal?.throwIfAborted();
        const size = Math.min(tile, groups - from);
        await weight.read(from * group, (from + size) * group, numbers);
        const scales = new Float32Array(size);
        for (let g = 0; g < size; g++) {
          let largest = 0;
          for (let i = g * group; i < (g + 1) * group; i++) largest = Math.max(largest, Math.abs(numbers[i]));
          scales[g] = largest / (half - 1) || 1;
        }
        // What is stored counts: codes are chosen, and the error is measured, with scales as they will be read.
        const scaleBytes = writeFloat32(dtype, scales);
        const rounded = toFloat32({ dtype, shape: [size], data: scaleBytes });
        const broken = rounded.findIndex((scale) => !Number.isFinite(scale));
        if (broken >= 0) {
          throw new LowbitError('ERR_DTYPE_OVERFLOW', `${weight.name}: the scale of group ${from + broken} is too large for ${dtype}`, {
            hint: 'Store scales in a dtype with a wider range: bf16 or f32.',
            details: { tensor: weight.name, group: from + broken, dtype },
          });
        }
        const codes = new Uint8Array(size * group);
        for (let i = 0; i < codes.length; i++) {
          const scale = rounded[Math.floor(i / group)] || 1;
          const step = Math.max(-half, Math.min(half - 1, Math.round(numbers[i] / scale)));
          codes[i] = step + half;
          const error = numbers[i] - Math.fround(step * rounded[Math.floor(i / group)]);
          squaredError += error * error;
          squaredWeight += numbers[i] * numbers[i];
          maxAbs = Math.max(maxAbs, Math.abs(error));
        }
        await out.write('codes', (from * group * bits) / 8, bits === 8 ? codes : nibbles(codes));
        await out.write('scale', from, scaleBytes);
        onWeights?.(codes.length);
      }
      return { squaredError, squaredWeight, maxAbs };
    },
  };
}

/**
 * @param {4 | 8} bits
 * @param {number} group
 * @param {DType} scale
 * @returns {import('@lowbit/core').Affine}
 */
function formatOf(bits, group, scale) {
  return { kind: 'affine', levels: 2 ** bits, group, axis: 1, scale, zero: 'none', packing: bits === 8 ? 'u8' : 'bnb_nibble' };
}

/** @param {Uint8Array} codes */
function nibbles(codes) {
  return Uint8Array.from({ length: codes.length / 2 }, (_, i) => (codes[2 * i] << 4) | codes[2 * i + 1]);
}

/**
 * @param {string} problem
 * @param {string} hint
 * @param {Record<string, unknown>} details
 */
function refuse(problem, hint, details) {
  return new LowbitError('ERR_BAD_ARGUMENT', `${METHOD} ${problem}`, { hint, details });
}

/**
 * `P.rtn_codes`, `P.rtn_scale`, and the shape, which neither of them tells.
 * @type {CheckpointLayout}
 */
export const rtnLayout = {
  spec: 1,
  name: METHOD,
  detect: ({ quantization_config: block }) =>
    typeof block === 'object' && block !== null && 'quant_method' in block && block.quant_method === METHOD,
  async read(_config, source) {
    /** @type {Map<string, StoredLinear>} */
    const found = new Map();
    for (const [name, { shape: packed }] of source.entries) {
      const path = /^(.+)\.rtn_codes$/.exec(name)?.[1];
      if (path === undefined) continue;
      const [scale, shapeEntry, weight] = ['rtn_scale', 'rtn_shape', 'weight'].map((part) => source.entries.get(`${path}.${part}`));
      const bad = (/** @type {string} */ problem) =>
        new LowbitError('ERR_BAD_CHECKPOINT', `${path}: ${problem}`, { hint: 'Fetch the files again.', details: { path } });
      if (scale === undefined || shapeEntry?.dtype !== 'i32' || shapeEntry.shape.join() !== '2' || weight !== undefined)
        throw bad('a tensor of rtn is missing, or of another kind');
      const { data } = await source.read(`${path}.rtn_shape`);
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      const shape = /** @type {Matrix} */ (/** @type {unknown} */ ([view.getInt32(0, true), view.getInt32(4, true)]));
      const count = shape[0] * shape[1];
      const groups = scale.shape[0] ?? 0;
      const bits = packed.length === 1 ? 8 : 4;
      if (!(shape[0] > 0 && shape[1] > 0 && groups > 0 && count % groups === 0)) throw bad(`the shape [${shape}] does not fit its scales`);
      const format = formatOf(bits, count / groups, scale.dtype);
      for (const [part, spec] of Object.entries(codecFor(format).parts(format, shape))) {
        const entry = source.entries.get(`${path}.rtn_${part}`);
        if (entry?.dtype !== spec.dtype || entry.shape.join() !== spec.shape.join()) throw bad(`rtn_${part} is not [${spec.shape}]`);
      }
      const bias = source.entries.has(`${path}.bias`) ? { bias: `${path}.bias` } : {};
      found.set(path, { format, shape, parts: { codes: name, scale: `${path}.rtn_scale` }, ...bias });
    }
    return found;
  },
  accepts: ({ method }, format) => method === METHOD && format.kind === 'affine',
  tensors({ site: { path, shape }, format }) {
    const parts = codecFor(format).parts(format, shape);
    const size = new Uint8Array(2 * DTYPE_BYTES.i32);
    for (const [i, length] of shape.entries()) new DataView(size.buffer).setInt32(4 * i, length, true);
    return [
      { name: `${path}.rtn_codes`, spec: parts.codes, content: { part: 'codes' } },
      { name: `${path}.rtn_scale`, spec: parts.scale, content: { part: 'scale' } },
      { name: `${path}.rtn_shape`, spec: { dtype: 'i32', shape: [2] }, content: { data: size } },
    ];
  },
  // `plugin` is for people: lowbit shows it to whoever opens the folder, and never loads it by itself.
  config: () => ({ quant_method: METHOD, plugin: PACKAGE }),
  // transformers would load it as `pt`, with layers that it made up.
  metadata: { format: 'lowbit' },
  loadsIn: () => [`lowbit, with --plugin ${PACKAGE} or its path.`],
};

/** What `lowbit quantize -m ./index.js` and `--plugin ./index.js` take. */
const plugin = {
  spec: 1,
  name: METHOD,
  /** @param {RtnOptions} settings */
  quantizer: (settings) => rtn(settings),
  layouts: [rtnLayout],
};
export default plugin;
