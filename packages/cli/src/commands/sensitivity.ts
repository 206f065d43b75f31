// `lowbit sensitivity`: what an error in each linear costs a model. The numbers that `quantize --target-bits` shares bits out by.

import { adapterFor } from '@lowbit/core';
import { keptByDefault } from '@lowbit/hub';
import { defaultAdapters } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { tokensFlag, withHint } from '../errors.ts';
import { checkWritable, writeTextFile } from '../files.ts';
import { findPlugins } from '../method-plugin.ts';
import { openModelFolder } from '../open.ts';
import type { BackendUse } from '../running-on.ts';
import { savedText, sensitivitiesOf, type TestedSensitivities } from '../sensitivity.ts';
import { pairs, plain, table } from '../table.ts';
import { countText, durationText } from '../units.ts';
import { sensitivityFrom, TESTED_ON } from './allocation.ts';
import { type BackendFlags, checkBackendFlags, openBackend } from './backend.ts';

export interface SensitivityOptions extends CommonOptions, BackendFlags {
  readonly on?: string;
  readonly tokens?: number;
  readonly save?: string;
  readonly overwrite?: boolean;
}

/** What `lowbit sensitivity --json` prints. */
export interface SensitivityReport extends TestedSensitivities {
  readonly ms: number;
  readonly backend: BackendUse;
}

/** Runs the command. */
export async function sensitivityCommand(path: string, options: SensitivityOptions, context: Context): Promise<void> {
  checkBackendFlags(options);
  await checkWritable(options.save, '--save', { replace: options.overwrite });
  const { signal, progress, bold } = context;
  const started = performance.now();
  const from = await sensitivityFrom(path, options.on, signal, '--on');
  await using checkpoint = await openModelFolder(path, { signal, ...(await findPlugins(options.plugin)) });
  const sites = adapterFor(checkpoint.config, defaultAdapters).linears(checkpoint.config, checkpoint.source.entries);
  const paths = sites.filter((site) => !keptByDefault(site)).map((site) => site.path);
  await using place = await openBackend(options, context);
  const run = { runtime: place.runtime, tokens: options.tokens, signal, onProgress: progress.report };
  const measured =
    from.sensitivities ?? (await withHint(() => sensitivitiesOf(checkpoint, paths, { ...run, ids: from.ids }), tokensFlag('--tokens')));
  if (options.save !== undefined) await writeTextFile(options.save, savedText(measured), '--save');
  const report: SensitivityReport = { ...measured, ms: performance.now() - started, backend: place.used() };
  progress.clear();
  const tags = new Map(sites.map((site) => [site.path, site.tag]));
  await (context.json ? context.emit(report) : context.print(`${render(report, tags, bold)}\n`));
}

function render(report: SensitivityReport, tags: ReadonlyMap<string, string>, bold: (text: string) => string): string {
  const total = report.linears.reduce((sum, { sensitivity }) => sum + sensitivity, 0);
  const ofTag = new Map<string, { count: number; sum: number; most: number; worst: string }>();
  for (const { path, sensitivity } of report.linears) {
    const tag = tags.get(path) ?? path;
    const row = ofTag.get(tag) ?? { count: 0, sum: 0, most: Number.NEGATIVE_INFINITY, worst: path };
    ofTag.set(tag, row);
    row.count++;
    row.sum += sensitivity;
    if (sensitivity > row.most) [row.most, row.worst] = [sensitivity, path];
  }
  const rows = table(
    [
      { title: 'tag' },
      { title: 'count', align: 'right' },
      { title: 'sensitivity', align: 'right' },
      { title: 'share', align: 'right' },
      { title: 'most', align: 'right' },
      { title: 'in' },
    ],
    [...ofTag]
      .sort(([, a], [, b]) => b.sum - a.sum)
      .map(([tag, { count, sum, most, worst }]) => [
        plain(tag),
        String(count),
        sum.toPrecision(3),
        `${((100 * sum) / total).toFixed(1)} %`,
        most.toPrecision(3),
        plain(worst),
      ]),
  );
  const facts = pairs([
    [
      'sensitivity',
      `${total.toPrecision(4)} ${report.metric === 'kl' ? 'nats' : 'of perplexity'} for a relative squared error of 1 in every linear`,
    ],
    ['tested on', `${countText(report.tokens)} ${TESTED_ON[report.on]}`],
    ['time', durationText(report.ms)],
    ['backend', `${report.backend.name} (${report.backend.device})`],
  ]);
  return `${bold('What errors cost')}\n${rows}\n\n${facts}`;
}
