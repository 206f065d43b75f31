// Which files of a folder belong to a model, by name.

/**
 * What goes along unchanged into a quantized copy: tokenizer, generation and processor settings, chat templates, licence and use policy. Not the
 * model card, which describes other weights, nor data and code that lie in the folder.
 */
const CARRIED =
  /^(?:(?:tokenizer|special_tokens_map|added_tokens|vocab|generation_config|preprocessor_config|processor_config|chat_template)\S*\.(?:json|txt|jinja)|merges\.txt|\S+\.jinja|\S+\.tiktoken|(?:tokenizer|spiece|sentencepiece\S*|source|target)\.(?:model|spm)|(?:licen[cs]e|notice|copying|use_policy|acceptable_use_policy)(?:[._-]\w+)?(?:\.(?:md|txt))?)$/i;

export function isCarried(name: string): boolean {
  return CARRIED.test(name);
}

const LICENCE = /^(?:licen[cs]e|notice|copying|use_policy|acceptable_use_policy)(?:[._-]\w+)?(?:\.(?:md|txt))?$/i;

/** Whether a file says what may be done with the model. */
export function isLicence(name: string): boolean {
  return LICENCE.test(name);
}

const TOKENIZER = /^(?:tokenizer\.json|vocab\.(?:json|txt)|\S+\.tiktoken|(?:tokenizer|spiece|sentencepiece\S*|source)\.(?:model|spm))$/i;

/** Whether a file holds the pieces of a tokenizer, and not its settings alone. */
export function isTokenizer(name: string): boolean {
  return TOKENIZER.test(name);
}

const OWN =
  /^(?:(?:config|quality)\.json|\S+\.safetensors|\S+\.safetensors\.index\.json|readme\.md|\.gitattributes|\.lowbit-journal\.jsonl)$/i;

/** Whether a file is of the kind that a model folder made here consists of: only such folders are replaced by `overwrite`. */
export function isModelFile(name: string): boolean {
  return OWN.test(name) || isCarried(name);
}
