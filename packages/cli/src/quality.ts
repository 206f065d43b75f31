// What was measured of a model, as its card has it. The file is what `lowbit compare --json` prints, kept with `--out`.

import { isPlainRecord, LowbitError } from '@lowbit/core';
import type { CardFacts } from '@lowbit/hub';
import { bytesText, countText } from './units.ts';

/** Beside a model: what `lowbit push` looks for. */
export const QUALITY_FILE = 'quality.json';

/** The parts of a comparison that a card shows. */
export interface Quality {
  readonly kl: number;
  readonly klStderr: number;
  readonly top1: number;
  readonly top1Stderr: number;
  readonly tokens: number;
  readonly perplexity: { readonly before: number; readonly after: number };
  /** Bytes of all tensors. */
  readonly bytes?: { readonly before: number; readonly after: number };
  /** Tokens of a window. */
  readonly contextLength?: number;
  /** Name of the text. */
  readonly text?: string;
}

/** Reads what `lowbit compare --json` printed. Throws ERR_BAD_ARGUMENT for anything else, and for numbers that cannot be. */
export function readQuality(json: unknown, path: string): Quality {
  const bad = (what: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `${path}: ${what}`, {
      hint: `Make it with: lowbit compare MODEL REFERENCE --data text.txt --out ${QUALITY_FILE}`,
      details: { path },
    });
  const record = (value: unknown, name: string): Record<string, unknown> => {
    if (isPlainRecord(value)) return value as Record<string, unknown>;
    throw bad(`${name} is not what lowbit compare prints`);
  };
  const number = (of: Record<string, unknown>, key: string, least: number, most = Number.MAX_VALUE): number => {
    const value = of[key];
    if (typeof value === 'number' && value >= least && value <= most) return value;
    throw bad(`${key} is ${JSON.stringify(value)}, not a number from ${least}`);
  };
  const all = record(json, 'it');
  const before = record(all.reference, 'reference');
  const after = record(all.model, 'model');
  const size = all.size === undefined ? undefined : record(all.size, 'size');
  const bytes = size && {
    before: number(record(size.reference, 'size.reference'), 'bytes', 1),
    after: number(record(size.model, 'size.model'), 'bytes', 1),
  };
  return {
    // Rounding may bring a divergence of nothing below 0.
    kl: number(all, 'kl', -1e-6),
    klStderr: number(all, 'klStderr', 0),
    top1: number(all, 'top1', 0, 1),
    top1Stderr: number(all, 'top1Stderr', 0),
    tokens: number(all, 'tokens', 1),
    perplexity: { before: number(before, 'perplexity', 1e-9), after: number(after, 'perplexity', 1e-9) },
    ...(bytes ? { bytes } : {}),
    ...(all.contextLength === undefined ? {} : { contextLength: number(all, 'contextLength', 1) }),
    ...(typeof all.text === 'string' && all.text !== '' ? { text: all.text.slice(0, 200) } : {}),
  };
}

/** Rows of the card's table, and the result that the Hub reads in its front matter. */
export function cardQuality(quality: Quality): Pick<CardFacts, 'quality' | 'measuredOn' | 'perplexity'> {
  const { kl, klStderr, top1, top1Stderr, tokens, perplexity, bytes, contextLength, text } = quality;
  const rows: [string, string, string][] = [
    ['perplexity', perplexity.before.toFixed(4), perplexity.after.toFixed(4)],
    ['KL divergence, nats per token', '0', `${kl.toPrecision(3)} ± ${klStderr.toPrecision(2)}`],
    ['same likeliest token', '100 %', `${(100 * top1).toFixed(2)} % ± ${(100 * top1Stderr).toFixed(2)}`],
  ];
  if (bytes) rows.push(['size', bytesText(bytes.before), bytesText(bytes.after)]);
  const windows = contextLength === undefined ? '' : ` in windows of ${countText(contextLength)}`;
  const of = text === undefined ? 'a text' : text;
  return {
    quality: rows,
    measuredOn: `${countText(tokens)} tokens of ${of}${windows}`,
    ...(text === undefined ? {} : { perplexity: { text, value: Number(perplexity.after.toFixed(4)) } }),
  };
}
