// Which linear gets which treatment: tags, globs and rules.

import { globs } from './glob.ts';
import { isQuantizer } from './quantize.ts';
import { LowbitError } from './spec/errors.ts';
import type { LinearSite } from './spec/model.ts';
import type { Rule, Treatment } from './spec/quantizer.ts';

/**
 * The part of a module path that repeats across layers: components `model`, `layers` and plain numbers are dropped.
 * `model.layers.31.self_attn.k_proj` -> `self_attn.k_proj`, `lm_head` -> `lm_head` (the tags of the Python hqq library).
 */
export function linearTag(path: string): string {
  const kept = path.split('.').filter((part) => part !== 'model' && part !== 'layers' && !/^\d+$/.test(part));
  return kept.length > 0 ? kept.join('.') : path;
}

/**
 * The part of a module path behind the number of its layer: `gpt_neox.layers.3.attention.dense` -> `attention.dense`,
 * `model.layers.0.block_sparse_moe.experts.7.w1` -> `block_sparse_moe.experts.7.w1`; outside layers the path.
 */
function inLayer(path: string): string {
  return /(?:^|\.)\d+\.(.+)$/s.exec(path)?.[1] ?? path;
}

/** The distinct tags of some module paths, in order of first appearance. */
export function linearTags(paths: Iterable<string>): string[] {
  return [...new Set([...paths].map(linearTag))];
}

interface Matcher {
  readonly rule: Rule;
  readonly test: (site: { readonly path: string; readonly tag: string }) => boolean;
}

function matcher(rule: Rule): Matcher {
  const patterns: readonly unknown[] = Array.isArray(rule?.match) ? rule.match : [rule?.match];
  const use: unknown = rule?.use;
  const usable = use === 'keep' || isQuantizer(use);
  const by: unknown = rule?.by ?? 'glob';
  if (
    !usable ||
    patterns.length === 0 ||
    patterns.some((pattern) => typeof pattern !== 'string') ||
    (by !== 'glob' && by !== 'substring')
  ) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `unusable rule ${JSON.stringify(rule) ?? String(rule)}`, {
      hint: "A rule is { match: 'tag or glob', use: hqq({ ... }) } or { match, use: 'keep' }.",
    });
  }
  const texts = typeof rule.match === 'string' ? [rule.match] : rule.match;
  if (by === 'substring') {
    if (texts.includes('')) throw new LowbitError('ERR_BAD_ARGUMENT', 'a rule by substring has an empty text, which every path contains');
    return { rule, test: ({ path, tag }) => texts.some((text) => path.includes(text) || tag === text) };
  }
  const matches = globs(texts);
  const matchesInLayer = (path: string, tag: string): boolean => {
    const inner = inLayer(path);
    return inner !== path && inner !== tag && matches(inner);
  };
  return { rule, test: ({ path, tag }) => matches(path) || matches(tag) || matchesInLayer(path, tag) };
}

/** Throws ERR_BAD_ARGUMENT unless `rules` is an array. */
export function checkRules(rules: unknown): void {
  if (Array.isArray(rules)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `rules must be an array, got ${rules === null ? 'null' : typeof rules}`, {
    hint:
      typeof rules === 'function'
        ? 'A function that makes rules is called first: rules: rules(paths).'
        : "Pass [{ match: 'tag or glob', use: hqq({ ... }) }, ...].",
    details: { option: 'rules' },
  });
}

/**
 * The treatment of every site: that of the last rule whose pattern matches its path, the path within its layer, or its tag, else `fallback`.
 * Throws ERR_BAD_ARGUMENT for rules or a fallback that are none, and if a rule that is not optional matches no site at all, since that is nearly always
 * a typing error.
 */
export function resolveRules<S extends Pick<LinearSite, 'path' | 'tag'>>(
  sites: readonly S[],
  rules: readonly Rule[],
  fallback: Treatment,
): Map<S, Treatment> {
  checkRules(rules);
  if (fallback !== 'keep' && !isQuantizer(fallback)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', "for linears that no rule matches, a quantizer or 'keep' is needed", {
      hint: "Pass what a method returns, such as hqq({ bits: 4 }), or 'keep'.",
      details: { option: 'quantizer' },
    });
  }
  const matchers = rules.map(matcher);
  const used = new Set<Matcher>();
  const treatments = new Map<S, Treatment>();
  for (const site of sites) {
    let treatment = fallback;
    for (const candidate of matchers) {
      if (!candidate.test(site)) continue;
      used.add(candidate);
      treatment = candidate.rule.use;
    }
    treatments.set(site, treatment);
  }
  const idle = matchers.find((candidate) => !used.has(candidate) && candidate.rule.optional !== true);
  if (idle) {
    const tags = linearTags(sites.map((site) => site.path));
    throw new LowbitError('ERR_BAD_ARGUMENT', `the rule ${JSON.stringify(idle.rule.match)} matches no linear layer`, {
      hint: `Tags of this model: ${tags.join(', ')}. Patterns match a tag, a full path, or the path within a layer.`,
      details: { match: idle.rule.match, tags },
    });
  }
  return treatments;
}
