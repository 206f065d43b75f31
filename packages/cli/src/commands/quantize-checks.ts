// What `lowbit quantize` refuses of flags that do not go together, before any model is looked at.

import type { Quantizer } from '@lowbit/core';
import { UsageError } from '../errors.ts';
import { filledSettings } from '../methods.ts';
import { parseUse, type RuleUse, usesImportance } from '../parse.ts';
import { checkFlags, choiceNames } from './allocation.ts';
import { checkBackendFlags } from './backend.ts';
import type { QuantizeOptions } from './quantize.ts';
import { type FilledOptions, hasTarget, methodText } from './quantize-recipe.ts';

/** Flags that need others, or exclude them; `flags` as they were given. Throws a UsageError. */
export function checkTogether(filled: FilledOptions, flags: QuantizeOptions): void {
  if (filled.out === undefined && filled.push === undefined && !filled.dryRun) {
    throw new UsageError(
      'quantize needs an output folder',
      'Name a new one with --out DIR, a repository with --push ORG/NAME, or pass --dry-run to see what would be written.',
    );
  }
  checkShardFlags(filled);
  checkPluginFlags(filled);
  checkFeedbackFlags(filled);
  checkFlags({ ...filled, method: flags.method });
  checkBackendFlags({ backend: filled.backend });
}

/** Flags that what linears can get has no use for. Throws a UsageError. */
export function checkUses(options: FilledOptions, flags: QuantizeOptions, uses: readonly RuleUse[], quantizer: () => Quantizer): void {
  const isUsed = typeof options.method === 'string' ? usesImportance(options) : quantizer().usesImportance !== false;
  if (options.importance !== 'none' && !isUsed && !uses.some((use) => use !== 'keep' && usesImportance(use))) {
    const from = typeof options.importance === 'string' ? options.importance : options.importance.file;
    throw new UsageError(
      `--importance ${from} needs --solver least-squares or --scale search`,
      flags.importance === undefined
        ? 'The recipe asks for it, and nothing here has a use for it: pass --importance none.'
        : 'Nothing else has a use for it.',
    );
  }
  if (options.dtype === 'f32' && [options.method, ...uses.map((use) => (use === 'keep' ? undefined : use.method))].includes('higgs')) {
    throw new UsageError(
      'higgs stores scales and tables in 16 bits, so --dtype cannot be f32',
      'Use --dtype bf16 or f16, or leave it out.',
    );
  }
}

/** What is made of the methods of the command alone. Throws a UsageError. */
function checkPluginFlags(options: FilledOptions): void {
  const { method, saveRecipe } = options;
  if (typeof method === 'string') return;
  const module = methodText(method);
  if (hasTarget(options)) {
    throw new UsageError(
      `--target-bits and --target-size share out methods of lowbit, not ${module}`,
      'Leave them out, or -m and name what linears can get with --choices.',
    );
  }
  if (saveRecipe !== undefined) {
    throw new UsageError(`--save-recipe has no place for ${module}`, 'A recipe names methods of lowbit alone: leave it out.');
  }
}

/** Feedback runs the model while it is quantized, and goes to least squares of hqq along rows. Throws a UsageError. */
function checkFeedbackFlags(options: FilledOptions): void {
  const { feedback, importance, shard, method, solver, rules } = options;
  if (feedback === undefined) return;
  const isShared = hasTarget(options);
  const own: readonly RuleUse[] =
    typeof method !== 'string' ? [] : isShared ? choiceNames(options, method, {}).map(parseUse) : [{ method }];
  const fed = [...own, ...rules.map(({ use }) => use)].filter(
    (use): use is Exclude<RuleUse, 'keep'> => use !== 'keep' && filledSettings(use, { feedback }).feedback !== undefined,
  );
  if (typeof method === 'string' && fed.length === 0) {
    throw isShared
      ? new UsageError(
          '--feedback is for hqq with groups along rows, and no linear can get that',
          'Name it with --methods or --choices, or leave --feedback out.',
        )
      : new UsageError(`--feedback is for hqq, not for ${method}`, 'Leave one of the two out.');
  }
  if (typeof method === 'string' && fed.some((use) => (use.solver ?? solver) !== 'least-squares')) {
    throw new UsageError('--feedback needs --solver least-squares', 'Pass it, or leave -m and --solver out.');
  }
  if (isShared) checkFedChoices(options, fed);
  if (importance === 'none' || importance === 'weights') {
    throw new UsageError(
      `--feedback needs samples, and --importance ${importance} has none`,
      'Pass --importance self, or a text file like what the model will read.',
    );
  }
  if (shard !== undefined) {
    throw new UsageError('--feedback quantizes one layer after another, and --shard does layers apart', 'Leave one of the two out.');
  }
}

/** What feedback does not take is left out of what layers can get: by a flag that would be all of hqq. Throws a UsageError. */
function checkFedChoices({ axis, quantScale, quantZero }: FilledOptions, fed: readonly { readonly axis?: 0 | 1 | undefined }[]): void {
  const across = axis === 0 && fed.some((use) => use.axis === undefined);
  const flag = across ? '--axis 0' : quantScale ? '--quant-scale' : quantZero !== undefined ? '--quant-zero' : undefined;
  if (flag === undefined) return;
  throw new UsageError(
    `--feedback needs groups along rows, with scales and zeros stored as they are, so ${flag} does not go with it`,
    'Leave one of the two out.',
  );
}

/** What looks at the whole model has no place in a share of the work. Throws a UsageError. */
function checkShardFlags({ shard, dryRun, targetBits, targetSize, measure, push }: QuantizeOptions): void {
  if (shard === undefined) return;
  if (push !== undefined) {
    throw new UsageError(
      '--push sends a whole model, and --shard makes a share of one',
      'Merge the shares, then: lowbit push DIR ORG/NAME.',
    );
  }
  const others = [
    ['--dry-run', dryRun],
    ['--target-bits', targetBits],
    ['--target-size', targetSize],
    ['--measure', measure],
  ] as const;
  const other = others.find(([, value]) => value)?.[0];
  if (other === undefined) return;
  const hint = dryRun
    ? 'The plan is that of the whole model: leave --shard out.'
    : 'Run it once with --dry-run --json, and give the shares the bits that it finds as --rule.';
  throw new UsageError(`${other} looks at the whole model, and --shard does a share of it`, hint);
}
