// Where the floating-point weight of a linear is in a checkpoint.

import { elementCount } from './dtype.ts';
import { matrixShape } from './quantize.ts';
import { LowbitError } from './spec/errors.ts';
import type { LinearSite } from './spec/model.ts';
import type { TensorSpec } from './spec/tensor.ts';

/** What `siteTensor` goes by. */
export type SitePlace = Pick<LinearSite, 'path' | 'shape' | 'stacked' | 'transposed'>;

/** The tensor that holds a linear's weight before it is quantized, and the flat element where it begins. */
export function siteTensor({ path, shape, stacked }: SitePlace): { readonly name: string; readonly from: number } {
  return stacked ? { name: stacked.tensor, from: stacked.row * shape[1] } : { name: `${path}.weight`, from: 0 };
}

/** Throws ERR_TENSOR_MISMATCH unless a tensor of that shape holds the linear's weight. */
export function checkSiteShape(site: SitePlace, { shape: found }: Pick<TensorSpec, 'shape'>): void {
  const { shape, stacked, transposed } = site;
  const { name } = siteTensor(site);
  const actual = stacked ? found : matrixShape(name, found);
  const expected = transposed ? shape.toReversed() : shape;
  const fits = stacked
    ? found.at(-1) === shape[1] && stacked.row + shape[0] <= elementCount(found.slice(0, -1))
    : actual[0] === expected[0] && actual[1] === expected[1];
  if (fits) return;
  const wanted = stacked ? `rows ${stacked.row} to ${stacked.row + shape[0]} of ${shape[1]}` : `[${expected.join(', ')}]`;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${name} is [${actual.join(', ')}], config.json says ${wanted}`, {
    hint: 'config.json and the weights belong to different models.',
    details: { tensor: name, expected, actual },
  });
}
