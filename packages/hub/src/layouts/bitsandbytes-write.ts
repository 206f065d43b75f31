// Which quantizers the `bitsandbytes` layout stores, and the tensors of one of their linears.

import type { Format, LayoutOptions, LayoutTensor, LinearSettings, QuantizedSite } from '@lowbit/core';
import { encodeBitsAndBytesLinear, isFourBit, isInt8 } from '@lowbit/layouts';
import { bitsAndBytesSettings } from './bitsandbytes-settings.ts';

/** True for what the bitsandbytes methods make. */
export function acceptsBitsAndBytes(use: LinearSettings, format: Format): boolean {
  return use.method === 'bitsandbytes' && (isInt8(format) || isFourBit(format));
}

/** The tensors of one linear. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold, ERR_BAD_ARGUMENT for settings that are not of bitsandbytes. */
export function bitsAndBytesTensors({ site, use, format }: QuantizedSite, { weightDtype }: LayoutOptions): readonly LayoutTensor[] {
  const { storage } = bitsAndBytesSettings(use);
  return encodeBitsAndBytesLinear({ path: site.path, shape: site.shape, format, weightDtype, storage });
}
