// The model card of a quantized model: what the Hub reads at its top, and how it was made for people below.

/** What a model card says. */
export interface CardFacts {
  /** `org/name` of the model that was quantized. */
  readonly baseModel?: string | undefined;
  /** Its commit. */
  readonly baseCommit?: string | undefined;
  readonly license?: string | undefined;
  readonly pipelineTag?: string | undefined;
  /** Name of the checkpoint's layout: `hqq`, `bitsandbytes`, ... */
  readonly layout: string;
  /** How it was made, a line each. */
  readonly recipe: readonly string[];
  /** Which programs load it, as sentences. */
  readonly loadsIn: readonly string[];
  /** What was measured: rows of a table. */
  readonly quality?: readonly (readonly [measure: string, original: string, quantized: string])[] | undefined;
  /** On what: ends "Measured on". */
  readonly measuredOn?: string | undefined;
  /** For the front matter's `model-index`, which the Hub shows as a result: perplexity on a text of that name. */
  readonly perplexity?: { readonly text: string; readonly value: number } | undefined;
}

/** The text of README.md. */
export function modelCard(name: string, facts: CardFacts): string {
  const { baseModel, baseCommit, license, pipelineTag, layout, recipe, loadsIn, quality = [], measuredOn, perplexity } = facts;
  const front: [string, string | readonly string[] | undefined][] = [
    ['library_name', 'transformers'],
    ['pipeline_tag', pipelineTag],
    ['license', license],
    ['base_model', baseModel],
    ['base_model_relation', baseModel === undefined ? undefined : 'quantized'],
    ['tags', ['lowbit', layout]],
  ];
  const lines = front.flatMap(([key, value]) =>
    value === undefined
      ? []
      : typeof value === 'string'
        ? [`${key}: ${yaml(value)}`]
        : [`${key}:`, ...value.map((item) => `- ${yaml(item)}`)],
  );
  const of = baseModel === undefined ? 'a model' : `[${baseModel}](https://huggingface.co/${baseModel})`;
  const at = baseCommit === undefined ? '' : ` at commit \`${baseCommit}\``;
  const table =
    quality.length === 0
      ? []
      : [
          '## Quality',
          '',
          ...(measuredOn === undefined ? [] : [`Measured on ${cell(measuredOn)}.`, '']),
          '| | original | quantized |',
          '|---|---|---|',
          ...quality.map((row) => `| ${row.map(cell).join(' | ')} |`),
          '',
        ];
  return [
    '---',
    ...lines,
    ...(perplexity === undefined ? [] : modelIndex(name, perplexity)),
    '---',
    '',
    `# ${name}`,
    '',
    `Quantized from ${of}${at} with lowbit.`,
    '',
    '## Recipe',
    '',
    ...recipe.map((line) => `- ${line}`),
    '',
    ...table,
    ...(loadsIn.length === 0 ? [] : ['## Loads in', '', ...loadsIn.map((line) => `- ${line}`), '']),
  ].join('\n');
}

/** Results as the Hub's metadata has them (huggingface_hub's `model_index_to_eval_results`): a task, a data set, a metric. */
function modelIndex(name: string, { text, value }: NonNullable<CardFacts['perplexity']>): string[] {
  return [
    'model-index:',
    `- name: ${yaml(name)}`,
    '  results:',
    '  - task:',
    '      type: text-generation',
    '    dataset:',
    `      name: ${yaml(text)}`,
    '      type: text',
    '    metrics:',
    '    - type: perplexity',
    '      name: perplexity',
    `      value: ${value}`,
  ];
}

/** A scalar that no reader of YAML takes for anything else than a text. */
function yaml(text: string): string {
  return /^[A-Za-z][\w./-]*$/.test(text) && !/^(?:true|false|yes|no|on|off|null|y|n)$/i.test(text) ? text : JSON.stringify(text);
}

function cell(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('|', '\\|').replace(/\s+/g, ' ');
}
