// `lowbit quantize --target-bits`: which choice each linear gets, and how good the prediction was.

import type { Importance } from '@lowbit/core';
import { loadTokenizer } from '@lowbit/models';
import { type AllocateModelOptions, type AllocatePer, allocateModel, type ModelAllocation } from '../allocate-model.ts';
import { checkAllocation } from '../allocation-plan.ts';
import { choicesAcross, defaultChoices, makeChoices } from '../choices.ts';
import type { Context } from '../context.ts';
import { tokensFlag, UsageError, withHint } from '../errors.ts';
import { readJsonFile, writeTextFile } from '../files.ts';
import { parseIds } from '../ids-file.ts';
import type { MeasuredLoss } from '../measure.ts';
import { openModelFolder } from '../open.ts';
import type { MethodChoice, MethodName, MethodSettings } from '../parse.ts';
import { isSaved, parseSaved, savedText, type TestedSensitivities } from '../sensitivity.ts';
import { pairs, plain, table } from '../table.ts';
import { encodeText, readNamed } from '../texts.ts';
import { bitsText, countText } from '../units.ts';

/** Flags of the allocation. */
export interface AllocationFlags {
  readonly targetBits?: number;
  /** Bytes of all safetensors files. */
  readonly targetSize?: number;
  readonly methods?: readonly MethodName[];
  readonly choices?: readonly string[];
  readonly sensitivity?: string;
  readonly sensitivityTokens?: number;
  readonly saveSensitivity?: string;
  readonly per?: AllocatePer;
  readonly measure?: string;
}

/** What a flag is called. */
const FLAGS: Readonly<Record<Exclude<keyof AllocationFlags, 'targetBits' | 'targetSize'>, string>> = {
  methods: '--methods',
  choices: '--choices',
  sensitivity: '--sensitivity',
  sensitivityTokens: '--sensitivity-tokens',
  saveSensitivity: '--save-sensitivity',
  per: '--per',
  measure: '--measure',
};

/** Throws a UsageError for flags of the allocation without a target, and for flags that say the bits themselves. */
export function checkFlags(
  flags: AllocationFlags & { readonly method?: MethodChoice | undefined; readonly bits?: unknown; readonly dryRun?: boolean },
): void {
  const given = (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).find((name) => flags[name] !== undefined);
  const target = flags.targetBits !== undefined ? '--target-bits' : flags.targetSize !== undefined ? '--target-size' : undefined;
  if (target === undefined && given !== undefined) {
    throw new UsageError(
      `${FLAGS[given]} needs --target-bits or --target-size`,
      'It says how bits are shared out, and there is no target to share.',
    );
  }
  if (flags.targetBits !== undefined && flags.targetSize !== undefined) {
    throw new UsageError('--target-bits and --target-size exclude each other', 'One says bits of a weight, the other bytes of the files.');
  }
  if (flags.methods !== undefined && flags.choices !== undefined) {
    throw new UsageError('--methods and --choices exclude each other', '--methods is short for all the usual choices of some methods.');
  }
  if (typeof flags.method === 'string' && flags.methods !== undefined && !flags.methods.includes(flags.method)) {
    throw new UsageError(
      `--method ${flags.method} is not among --methods ${flags.methods.join(',')}`,
      'Name it there too, or leave --method out.',
    );
  }
  if (target !== undefined && flags.bits !== undefined) {
    throw new UsageError(`--bits and ${target} exclude each other`, 'Leave --bits out, or name the widths with --choices hqq:b3,hqq:b4.');
  }
  if (flags.dryRun && flags.measure !== undefined) {
    throw new UsageError('--measure needs a model that is written', 'Leave --dry-run out.');
  }
}

interface AllocationSettings extends Pick<AllocateModelOptions, 'rules' | 'dtype' | 'layout' | 'threads' | 'runtime'> {
  readonly method: MethodName;
  readonly settings: MethodSettings;
  readonly importance?: ReadonlyMap<string, Importance> | undefined;
  /** What `sensitivityFrom` gave. */
  readonly from: SensitivityFrom;
}

/** Names of the choices that the flags give. */
export function choiceNames({ choices, methods }: AllocationFlags, method: MethodName, settings: MethodSettings): readonly string[] {
  return choices ?? (methods ? choicesAcross(methods, settings) : defaultChoices(method, settings));
}

/** Refuses a target that cannot be met, and choices that cannot be stored together, before anything is measured. Throws what `checkAllocation` throws. */
export async function checkTargetOf(dir: string, flags: AllocationFlags, settings: AllocationSettings, context: Context): Promise<void> {
  await inFlags(() => checkAllocation(dir, askedOf(flags, settings, context)));
}

/** Runs the allocation that the flags ask for. */
export async function allocate(
  dir: string,
  flags: AllocationFlags,
  settings: AllocationSettings,
  context: Context,
): Promise<ModelAllocation> {
  const allocation = await inFlags(() => allocateModel(dir, askedOf(flags, settings, context)));
  const { saveSensitivity } = flags;
  if (saveSensitivity !== undefined) await writeTextFile(saveSensitivity, savedText(allocation.sensitivities), '--save-sensitivity');
  return allocation;
}

function askedOf(
  flags: AllocationFlags,
  { method, settings, from, ...rest }: AllocationSettings,
  { signal, progress }: Context,
): AllocateModelOptions {
  const { targetBits, targetSize, per, sensitivityTokens: tokens } = flags;
  const choices = makeChoices(choiceNames(flags, method, settings), settings);
  return { ...rest, targetBits, targetSize, choices, per, tokens, ...from, signal, onProgress: progress.report };
}

/** Names flags where functions name options. */
function inFlags<T>(work: () => Promise<T>): Promise<T> {
  return withHint(work, (hint) =>
    tokensFlag('--sensitivity-tokens')(hint).replace('add smaller choices', 'name smaller ones with --choices'),
  );
}

/** The words of --importance; `random` is short for the first, as there. */
const TOKENS = ['random-tokens', 'self'] as const;
const [RANDOM_TOKENS, SELF] = TOKENS;

export interface SensitivityFrom {
  readonly sensitivities?: TestedSensitivities;
  readonly ids?: readonly (readonly number[])[] | 'self';
}

/** Ids of a text, saved numbers, or nothing for random tokens. */
export async function sensitivityFrom(
  dir: string,
  from: string = RANDOM_TOKENS,
  signal: AbortSignal,
  flag = '--sensitivity',
): Promise<SensitivityFrom> {
  if (from === RANDOM_TOKENS || from === 'random') return {};
  if (from === SELF) return { ids: SELF };
  if (from.endsWith('.json')) {
    const value = await readJsonFile(from, flag);
    return isSaved(value) ? { sensitivities: parseSaved(value, `${flag}: ${from}`) } : { ids: parseIds(value, from, flag).texts };
  }
  const file = await readNamed(from, flag, TOKENS);
  if ('ids' in file) return { ids: file.ids.texts };
  await using checkpoint = await openModelFolder(dir, { signal });
  return { ids: encodeText(await loadTokenizer(checkpoint), file.text).texts };
}

/** How the loss is called. */
const LOSS: Readonly<Record<ModelAllocation['metric'], string>> = { kl: 'KL', perplexity: 'perplexity' };

export const TESTED_ON: Readonly<Record<TestedSensitivities['on'], string>> = {
  'random-tokens': 'random tokens; a text loses another amount: less by a factor of about two on tiny-llama',
  self: 'tokens that the model wrote',
  text: 'tokens of the text',
};

const small = (value: number): string => (value === 0 ? '0' : value.toPrecision(3));

/** Table and facts. `isFed`: layers are quantized with feedback, which predictions know nothing of. */
export function renderAllocation(
  allocation: ModelAllocation,
  { bold, isFed = false }: Pick<Context, 'bold'> & { readonly isFed?: boolean },
): string {
  const { metric, linears, loss, gap, weights, sensitivities, targetBits, targetSize, uniform } = allocation;
  const name = LOSS[metric];
  const rows = new Map<string, { tag: string; choice: string; count: number; weights: number; bits: number; loss: number }>();
  for (const linear of linears) {
    const key = `${linear.tag} ${linear.choice}`;
    const row = rows.get(key) ?? { tag: linear.tag, choice: linear.choice, count: 0, weights: 0, bits: 0, loss: 0 };
    rows.set(key, row);
    row.count++;
    row.weights += linear.weights;
    row.bits += linear.bits * linear.weights;
    row.loss += linear.loss;
  }
  const order = [...new Set(linears.map(({ tag }) => tag))];
  const sorted = [...rows.values()].sort((a, b) => order.indexOf(a.tag) - order.indexOf(b.tag) || a.bits / a.weights - b.bits / b.weights);
  const chosen = table(
    [
      { title: 'tag' },
      { title: 'choice' },
      { title: 'count', align: 'right' },
      { title: 'bits/weight', align: 'right' },
      { title: `predicted ${name}`, align: 'right' },
    ],
    sorted.map((row) => [plain(row.tag), row.choice, String(row.count), bitsText(row.bits / row.weights), small(row.loss)]),
  );
  const others = uniform.map(({ choice, bitsPerWeight, loss: own }) => `${choice} ${small(own)} at ${bitsText(bitsPerWeight)}`);
  // A size may hold more than any choice takes: then bits of a weight say nothing.
  const holds = targetBits < 32 ? `${targetBits.toFixed(4)} bits a weight over ${countText(weights)} weights` : 'more than the model takes';
  const facts: [string, string][] = [
    [
      'target',
      targetSize === null
        ? `${targetBits} bits a weight over ${countText(weights)} weights, scales included; embeddings and lm_head not counted`
        : `${countText(targetSize)} bytes: ${holds}, beside all that is not chosen for`,
    ],
    ['reached', allocation.bitsPerWeight.toFixed(4)],
    [
      'predicted',
      `${name} ${small(loss)}${metric === 'kl' ? ' nats per token' : ' more'}${gap > 0 ? `, at most ${small(gap)} above the best` : ''}${isFed ? '; without feedback, which makes it less' : ''}`,
    ],
    ['tested on', `${countText(sensitivities.tokens)} ${TESTED_ON[sensitivities.on]}`],
  ];
  if (others.length > 0) facts.push(['one for all', others.join(', ')]);
  return `${bold('Allocation')}\n${chosen}\n\n${pairs(facts)}`;
}

/** Prediction and measurement side by side. By the theorem KL and the relative increase of perplexity agree for a text that the model expects. */
export function renderMeasured({ metric, loss }: ModelAllocation, measured: MeasuredLoss, { bold }: Pick<Context, 'bold'>): string {
  const { kl, perplexity, tokens } = measured;
  const predicted = metric === 'kl' ? perplexity.before * Math.exp(loss) : perplexity.before + loss;
  const rows: [string, string][] = [];
  if (metric === 'kl') rows.push(['KL', `${small(loss)} predicted, ${small(kl)} measured`]);
  else rows.push(['KL', `${small(kl)} measured`]);
  rows.push([
    'perplexity',
    `${perplexity.before.toFixed(3)} -> ${predicted.toFixed(3)} predicted, ${perplexity.after.toFixed(3)} measured`,
  ]);
  rows.push(['tokens', countText(tokens)]);
  return `${bold('Predicted against measured')}\n${pairs(rows)}`;
}

/** For --json: without what cannot be written as JSON. */
export function allocationJson({ rules: _, sensitivities, ...rest }: ModelAllocation): object {
  const { on, tokens } = sensitivities;
  return { ...rest, testedOn: { on, tokens } };
}
