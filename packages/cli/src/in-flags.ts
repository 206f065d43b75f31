// Messages of the library speak of its options and functions; whoever types commands has flags.

/** What a user of the command cannot do is left out; options that have flags are called by them. In this order. */
const WORDS: readonly (readonly [RegExp, string])[] = [
  [/, or load the model with a larger contextLength if it allows one/, ''],
  [/, or quantize the loaded model with patchLinears/, ''],
  [/ ?An adapter of your own goes into the `adapters` option\./, ''],
  [/ ?Pass an adapter of your own as `adapters` for others\./, ''],
  [/, or pass allowDequant/, ''],
  [/, or allowDequant: true for the runtime/, ''],
  [/ \(overwrite: true\)/, ''],
  [/ \(resume: true\)/, ''],
  [/; allowNonFinite: true takes/, '; --allow-non-finite takes'],
  [/ \(maxMemory, for each linear at a time\)/, ' (--max-memory)'],
  [/\bhqq\(\{ groupSize \}\)/, 'hqq with --group'],
  [/\b(blockSize|groupSize)\b/g, '--group'],
  [/\bhadamardSize\b/g, '--hadamard-size'],
  [/\bdoubleQuant\b/g, '--double-quant'],
  [/\bcomputeDtype\b/g, '--compute-dtype'],
  [/\ballowNonFinite\b/g, '--allow-non-finite'],
  [/\bshardSize\b/g, '--shard-size'],
  [/\bmaxMemory\b/g, '--max-memory'],
  [/\bisa cannot be\b/g, '--isa cannot be'],
  [/^contextLength (\d+) is more than/, 'a context of $1 tokens is more than'],
  [/\bTake at most (\d+) tokens\./, 'Take at most $1 tokens (--sensitivity-tokens).'],
];

/** A message or hint in the words of the command line. */
export function inFlags(text: string): string {
  return WORDS.reduce((said, [word, flag]) => said.replace(word, flag), text).trim();
}
