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
  [/\bweightMemory\b/g, '--weight-memory'],
  [/(?<!-)\bisa cannot be\b/g, '--isa cannot be'],
  [/^contextLength (\d+) is more than/, 'a context of $1 tokens is more than'],
  [/\bor use another backend: cpu\(\) of @lowbit\/kernels-cpu\./, 'or use --backend cpu.'],
  [/\bPass webgpu\(\{ software: true \}\) to take it all the same, or use cpu\(\) of @lowbit\/kernels-cpu\./, 'Use --backend cpu.'],
  [/: leave `images` out\./, ': leave --image out.'],
  [/\bPass token ids instead of text, or add the tokenizer files/, 'Add the tokenizer files'],
];

/** A message or hint in the words of the command line; what one command alone calls otherwise is said there (`withHint`). */
export function inFlags(text: string): string {
  return WORDS.reduce((said, [word, flag]) => said.replace(word, flag), text).trim();
}
