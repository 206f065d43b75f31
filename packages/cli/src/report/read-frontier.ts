// Rows of bench/quality.mjs, as the frontier of a report.

import { isPlainRecord, LowbitError } from '@lowbit/core';
import type { FrontierPoint } from './data.ts';

const MAX_POINTS = 1000;
/** The plot has a line for each. */
const MAX_BITS = 64;

/** Points of JSON Lines; those of the model as stored are left out. Throws ERR_BAD_ARGUMENT, naming file and line. */
export function readFrontier(text: string, name: string): readonly FrontierPoint[] {
  const lines = text.split('\n').map((line, i) => ({ line: line.trim(), number: i + 1 }));
  const points = lines.filter(({ line }) => line !== '').map(({ line, number }) => readPoint(line, `${name}: line ${number}`));
  if (points.length > MAX_POINTS) {
    throw new LowbitError('ERR_LIMIT', `${name} has ${points.length} points, more than ${MAX_POINTS}`, { hint: 'Take a part of them.' });
  }
  return points.filter(({ kl }) => kl > 0);
}

function readPoint(line: string, place: string): FrontierPoint {
  const bad = (problem: string, cause?: unknown): LowbitError =>
    new LowbitError('ERR_BAD_ARGUMENT', `${place} ${problem}`, {
      hint: '`npm run bench:quality -- MODEL TEXT --out FILE` writes such files.',
      cause,
    });
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    throw bad('is not JSON', cause);
  }
  if (!isPlainRecord(row)) throw bad('is no object');
  const { quantizer, bitsPerWeight, kl, klStderr } = row;
  const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value) && value >= 0;
  if (
    typeof quantizer !== 'string' ||
    quantizer.length > 200 ||
    !isNumber(bitsPerWeight) ||
    bitsPerWeight > MAX_BITS ||
    !isNumber(kl) ||
    !isNumber(klStderr)
  ) {
    throw bad(`needs quantizer, bitsPerWeight (up to ${MAX_BITS}), kl and klStderr`);
  }
  return { name: quantizer, bitsPerWeight, kl, klStderr };
}
