// The figures of a quantized model in a few rows, for its report and its model card.

import type { CompareReport } from '../commands/compare.ts';
import { bitsText, bytesText, countText } from '../units.ts';

/** A row: what is measured, of the original, of the quantized model. Plain text. */
export type QualityRow = readonly [measure: string, original: string, quantized: string];

type Measured = Pick<CompareReport, 'kl' | 'klStderr' | 'top1' | 'top1Stderr' | 'tokens' | 'reference' | 'model' | 'size'>;

/** Rows of what `lowbit compare --json` prints, as `quality` of hub's model card takes them. */
export function qualityTable({ kl, klStderr, top1, top1Stderr, tokens, reference, model, size }: Measured): readonly QualityRow[] {
  const perplexity = ({ perplexity, stderr }: typeof model): string => `${perplexity.toFixed(3)} ± ${stderr.toFixed(3)}`;
  const bits = ({ bitsPerWeight, bitsPerParameter }: typeof size.model): string =>
    bitsPerWeight === null ? bitsText(bitsPerParameter) : `${bitsText(bitsPerWeight)} (${bitsText(bitsPerParameter)} over everything)`;
  return [
    [`KL divergence, nats per token (${countText(tokens)} tokens)`, '0', `${kl.toPrecision(3)} ± ${klStderr.toPrecision(2)}`],
    ['same likeliest token', '100 %', `${(100 * top1).toFixed(2)} ± ${(100 * top1Stderr).toFixed(2)} %`],
    ['perplexity', perplexity(reference), perplexity(model)],
    ['bits per weight, scales included', bits(size.reference), bits(size.model)],
    ['size', bytesText(size.reference.bytes), bytesText(size.model.bytes)],
  ];
}
