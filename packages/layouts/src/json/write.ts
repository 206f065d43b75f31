// JSON as Python's json.dumps(value, indent=2, sort_keys=True) writes it, which is how transformers writes config.json and the index.

import { isArray, isNumber, type JsonTree } from './parse.ts';

/** Order of Unicode code points: that of Python strings and of UTF-8 bytes. JavaScript's own order differs for characters beyond U+FFFF. */
export function compareCodePoints(a: string, b: string): number {
  const end = Math.min(a.length, b.length);
  for (let i = 0; i < end; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) return rank(x) - rank(y);
  }
  return a.length - b.length;
}

/** Code units in code point order: surrogates stand for characters above U+FFFF, so they come last. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

/** Two spaces, sorted keys, everything beyond ASCII escaped; no newline at the end. */
export function writeJson(tree: JsonTree, indent = ''): string {
  if (tree === null || typeof tree === 'boolean') return String(tree);
  if (typeof tree === 'string') return writeString(tree);
  if (isNumber(tree)) return tree.literal;
  const inner = `${indent}  `;
  if (isArray(tree)) {
    return tree.length === 0 ? '[]' : `[\n${tree.map((item) => inner + writeJson(item, inner)).join(',\n')}\n${indent}]`;
  }
  if (tree.size === 0) return '{}';
  const rows = [...tree].sort(([a], [b]) => compareCodePoints(a, b));
  return `{\n${rows.map(([key, item]) => `${inner}${writeString(key)}: ${writeJson(item, inner)}`).join(',\n')}\n${indent}}`;
}

/**
 * A float as Python's repr, and so its json, prints it: the shortest digits that read back equal, always with a point or an exponent; exponents of at
 * least two digits below 1e-4 and from 1e16.
 */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  const sign = value < 0 || Object.is(value, -0) ? '-' : '';
  const [mantissa, power] = Math.abs(value).toExponential().split('e') as [string, string];
  const digits = mantissa.replace('.', '');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, '0');
    return `${sign}${mantissa}e${exponent < 0 ? '-' : '+'}${size}`;
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`;
}

function writeString(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
