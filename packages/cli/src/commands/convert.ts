// `lowbit convert`: a quantized model folder stored in another way, or with --dry-run the plan of it.

import { checkOutputFree } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { type ConversionPlan, type ConvertModelReport, convertModel, planConversion } from '../convert-model.ts';
import { UsageError } from '../errors.ts';
import { openModelFolder } from '../open.ts';
import { bitsFact, filesTable, loads, quoted, ratio, total } from '../plan-text.ts';
import { pairs, plain } from '../table.ts';
import { tagTable } from '../tags.ts';
import { countText, durationText } from '../units.ts';

export interface ConvertOptions extends CommonOptions {
  readonly out?: string;
  readonly flute?: 32 | 64 | 'portable' | 'auto';
  readonly maxMemory?: number;
  readonly shardSize?: number;
  readonly dryRun?: boolean;
  readonly resume?: boolean;
  readonly overwrite?: boolean;
}

/** Runs the command. */
export async function convertCommand(dir: string, options: ConvertOptions, context: Context): Promise<void> {
  const { out, flute, maxMemory, shardSize, dryRun = false, resume = false, overwrite = false } = options;
  // A wrong folder is the first thing to know.
  await using _ = await openModelFolder(dir, { signal: context.signal });
  if (flute === undefined) {
    throw new UsageError(
      'convert needs to be told what to make',
      "Pass --flute 32 (FLUTE's tiles as transformers reads them), 64, portable (any shape, for lowbit alone), or auto (32 where it fits).",
    );
  }
  if (out === undefined && !dryRun) {
    throw new UsageError(
      'convert needs an output folder',
      'Name a new one with --out DIR, or pass --dry-run to see what would be written.',
    );
  }
  if (out !== undefined && !dryRun) await checkOutputFree(out, { resume, overwrite, source: dir });
  const what = { flute, shardSize, signal: context.signal };
  if (dryRun || out === undefined) {
    const plan = await planConversion(dir, what);
    await (context.json
      ? context.emit({ dryRun: true, ...plan, totalBytes: total(plan) })
      : context.print(`${renderPlan(plan, context)}\n`));
    return;
  }
  const report = await convertModel(dir, { ...what, out, maxMemory, resume, overwrite, onProgress: context.progress.report });
  context.progress.clear();
  await (context.json
    ? context.emit({ dryRun: false, ...report, totalBytes: total(report) })
    : context.print(`${renderReport(report, out, context)}\n`));
}

function facts(plan: ConversionPlan): [string, string][] {
  const { summary, notes } = plan;
  return [
    ['linears', `${summary.quantizedLinears} of ${summary.linears} quantized, ${countText(summary.quantizedWeights)} weights`],
    ['bits per weight', bitsFact(summary)],
    ['weights', ratio(plan.weightBytes)],
    ...notes.map((note): [string, string] => ['note', plain(note)]),
  ];
}

function renderPlan(plan: ConversionPlan, { bold }: Context): string {
  const sections = [
    `${bold('Files')}\n${filesTable(plan)}`,
    `${bold('Linears')}\n${tagTable(plan.tags)}`,
    pairs(facts(plan)),
    loads(plan, bold),
    'Nothing was written (--dry-run).',
  ];
  return sections.filter(Boolean).join('\n\n');
}

function renderReport(report: ConvertModelReport, out: string, { bold }: Context): string {
  const resumed = report.resumed > 0 ? `; ${report.resumed} units were done by an earlier run` : '';
  const sections = [
    `Wrote ${bold(plain(report.out))}`,
    pairs([...facts(report), ['time', `${durationText(report.ms)}${resumed}`]]),
    loads(report, bold),
    `${bold('Next:')} lowbit inspect ${quoted(out)}`,
  ];
  return sections.filter(Boolean).join('\n\n');
}
