// Where the floating-point weight of a linear is in a checkpoint, and reading it.

import { fitInputs } from './codecs/index.ts';
import { elementCount } from './dtype.ts';
import { matrixShape } from './quantize.ts';
import type { Checkpoint } from './spec/checkpoint.ts';
import { LowbitError } from './spec/errors.ts';
import type { QuantizedTensor } from './spec/format.ts';
import type { LinearSite } from './spec/model.ts';
import type { Matrix, Shape, TensorSpec } from './spec/tensor.ts';
import { transpose } from './tensor.ts';

/** What `siteTensor` goes by. */
export type SitePlace = Pick<LinearSite, 'path' | 'shape' | 'stacked' | 'transposed'>;

/** The tensor that holds a linear's weight before it is quantized, and the flat element where it begins. */
export function siteTensor({ path, shape, stacked }: SitePlace): { readonly name: string; readonly from: number } {
  return stacked ? { name: stacked.tensor, from: stacked.row * shape[1] } : { name: `${path}.weight`, from: 0 };
}

/** Throws ERR_TENSOR_MISMATCH unless a tensor of that shape holds the linear's weight. */
export function checkSiteShape(site: SitePlace, { shape: found }: Pick<TensorSpec, 'shape'>): void {
  const { name } = siteTensor(site);
  if (site.stacked) {
    const columns = found.at(-1);
    const rows = elementCount(found.slice(0, -1));
    if (found.length < 2 || columns !== site.shape[1] || site.stacked.row + site.shape[0] > rows) {
      throw mismatch(
        name,
        found,
        site.shape,
        `rows ${site.stacked.row} to ${site.stacked.row + site.shape[0]} of ${site.shape[1]} columns`,
      );
    }
    return;
  }
  const shape = matrixShape(name, found);
  const expected = site.transposed ? site.shape.toReversed() : site.shape;
  if (shape[0] === expected[0] && shape[1] === expected[1]) return;
  throw mismatch(name, shape, expected, `[${expected.join(', ')}]`);
}

function mismatch(tensor: string, actual: Shape, expected: Shape, wanted: string): LowbitError {
  return new LowbitError('ERR_TENSOR_MISMATCH', `${tensor} is [${actual.join(', ')}], config.json says ${wanted}`, {
    hint: 'config.json and the weights belong to different models.',
    details: { tensor, expected, actual },
  });
}

/**
 * The weight of a linear as [out, in], however the checkpoint has it: quantized, in its stored format and with the in_features of the model; else dense,
 * turned if it is stored as [in, out], and cut out of the tensor that it shares with others. Throws ERR_TENSOR_MISMATCH, and what the checkpoint throws.
 */
export async function readSite(
  checkpoint: Pick<Checkpoint, 'source' | 'quantized' | 'linear' | 'tensor'>,
  site: SitePlace,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<QuantizedTensor> {
  if (site.stacked && !checkpoint.quantized.has(site.path)) {
    const { name, from } = siteTensor(site);
    const entry = checkpoint.source.entries.get(name);
    if (!entry) throw new LowbitError('ERR_TENSOR_MISMATCH', `the checkpoint has no tensor ${name}`, { details: { tensor: name } });
    checkSiteShape(site, entry);
    const { data } = await checkpoint.tensor(name, { range: [from, from + elementCount(site.shape)], signal: options.signal });
    return dense(entry.dtype, site.shape, data);
  }
  const weight = await checkpoint.linear(site.path, options);
  if (!site.transposed || checkpoint.quantized.has(site.path)) return fitInputs(weight, site.shape);
  const turned = transpose(weight.parts.weight!);
  return dense(turned.dtype, turned.shape as Matrix, turned.data);
}

function dense(dtype: TensorSpec['dtype'], shape: Matrix, data: Uint8Array): QuantizedTensor {
  return { format: { kind: 'dense', dtype }, shape, parts: { weight: { dtype, shape, data } } };
}
