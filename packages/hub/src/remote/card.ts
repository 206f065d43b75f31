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
}

/** The text of README.md. */
export function modelCard(name: string, facts: CardFacts): string {
  const { baseModel, baseCommit, license, pipelineTag, layout, recipe, loadsIn, quality = [] } = facts;
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
      : ['## Quality', '', '| | original | quantized |', '|---|---|---|', ...quality.map((row) => `| ${row.map(cell).join(' | ')} |`), ''];
  return [
    '---',
    ...lines,
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

/** A scalar that no reader of YAML takes for anything else than a text. */
function yaml(text: string): string {
  return /^[A-Za-z][\w./-]*$/.test(text) && !/^(?:true|false|yes|no|on|off|null|y|n)$/i.test(text) ? text : JSON.stringify(text);
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replace(/\s+/g, ' ');
}
