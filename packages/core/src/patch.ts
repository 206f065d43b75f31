// Quantizing the linears of a model that is already loaded, in lowbit or in any framework that can name and replace its linear layers.

import { checkRuntime } from './linear-checks.ts';
import { checkOptionNames } from './option-names.ts';
import { type QuantizeOptions, quantize } from './quantize.ts';
import { checkRules, linearTag, resolveRules } from './rules.ts';
import type { QuantizedLinear } from './spec/backend.ts';
import { LowbitError } from './spec/errors.ts';
import type { QuantizedTensor } from './spec/format.ts';
import type { LinearHost } from './spec/model.ts';
import type { Importance, Rule, Treatment } from './spec/quantizer.ts';
import type { CallOptions, HostTensor } from './spec/tensor.ts';
import { withWorkers } from './workers/workers.ts';

export interface PatchOptions extends CallOptions, Pick<QuantizeOptions, 'metaDtype' | 'threads'> {
  /** Where the quantized linears will run: each on the backend that the host names, if it does. */
  readonly runtime: {
    linear(
      weight: QuantizedTensor,
      options?: { readonly bias?: HostTensor | undefined; readonly backend?: string | undefined },
    ): Promise<QuantizedLinear>;
    routine: NonNullable<QuantizeOptions['runtime']>['routine'];
  };
  /** Treatment of linears that no rule matches; default `keep`. */
  readonly fallback?: Treatment;
  /** What an error in each linear costs, by path. From `collectImportance` of models. */
  readonly importance?: ReadonlyMap<string, Importance> | undefined;
}

const OPTIONS = Object.keys({
  runtime: true,
  fallback: true,
  importance: true,
  metaDtype: true,
  threads: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof PatchOptions, true>);

/**
 * Quantizes and replaces every linear of `host` that a rule gives a quantizer. Returns the replaced paths in order.
 * Linears replaced before a failure or an abort stay replaced: the host works at every moment. Throws ERR_BAD_ARGUMENT for an unknown option,
 * a host that is none, and a weight of another shape than `linears()` says.
 *
 * @example
 * await patchLinears(model, [{ match: 'self_attn.{q,k,v,o}_proj', use: hqq({ bits: 4 }) }, { match: 'mlp.*', use: hqq({ bits: 3 }) }], { runtime });
 */
export async function patchLinears(host: LinearHost, rules: readonly Rule[], options: PatchOptions): Promise<string[]> {
  checkOptionNames('patchLinears', options, OPTIONS);
  if (!(['linears', 'weight', 'replace'] as const).every((name) => typeof host?.[name] === 'function'))
    throw bad('the host of patchLinears must have linears(), weight(path) and replace(path, linear)');
  checkRules(rules);
  checkRuntime(options.runtime, ['linear', 'routine']);
  if (options.importance && typeof options.importance.get !== 'function')
    throw bad('the option importance must be a Map by path', 'Pass what collectImportance gives.');
  return withWorkers(options.threads ?? 1, (workers) => patchAll(host, rules, options, workers ?? 1));
}

const bad = (message: string, hint?: string) => new LowbitError('ERR_BAD_ARGUMENT', message, hint === undefined ? {} : { hint });

async function patchAll(
  host: LinearHost,
  rules: readonly Rule[],
  options: PatchOptions,
  threads: QuantizeOptions['threads'],
): Promise<string[]> {
  const { runtime, signal, onProgress, metaDtype = 'f16', fallback = 'keep', importance } = options;
  const sites = [...host.linears()].map((site) => {
    if (typeof site?.path !== 'string' || !Array.isArray(site.shape)) throw bad('a linear of the host must be { path, shape }');
    return { ...site, tag: linearTag(site.path) };
  });
  const kept = sites.filter(({ keep }) => keep).map(({ path }) => path);
  const defaults: Rule[] = kept.length > 0 ? [{ match: kept, use: 'keep' }] : [];
  const work = [...resolveRules(sites, [...defaults, ...rules], fallback)].filter(([, use]) => use !== 'keep');
  const replaced: string[] = [];
  for (const [{ path, shape }, use] of work) {
    signal?.throwIfAborted();
    if (use === 'keep') continue;
    const found = await host.weight(path);
    const got = found?.weight?.shape;
    if (String(got) !== String(shape)) throw bad(`weight('${path}') must give { weight } [${shape.join(', ')}], got [${got?.join(', ')}]`);
    const { weight, bias } = found;
    const quantized = await quantize(weight, use, { signal, runtime, metaDtype, importance: importance?.get(path), threads });
    const linear = await runtime.linear(quantized, { bias, backend: host.backend?.(path) });
    try {
      await host.replace(path, linear);
    } catch (error) {
      linear[Symbol.dispose](); // the host did not take it over
      throw error;
    }
    replaced.push(path);
    onProgress?.({ phase: 'quantize', done: replaced.length, total: work.length, unit: 'linears', item: path });
  }
  return replaced;
}
