// Which linear gets which treatment: tags, globs and rules.

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

/** The distinct tags of some module paths, in order of first appearance. */
export function linearTags(paths: Iterable<string>): string[] {
  return [...new Set([...paths].map(linearTag))];
}

/**
 * Turns a glob into a test. `*` matches within one dot component, `**` any number of components, `?` one character, `{a,b}` alternatives
 * (not nested). Everything else is literal. Throws ERR_BAD_ARGUMENT for an unusable pattern.
 */
export function glob(pattern: string): (text: string) => boolean {
  const bad = (why: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `unusable pattern ${JSON.stringify(pattern)}: ${why}`, {
      hint: 'Use a tag such as self_attn.q_proj or a glob such as **.{v,down}_proj.',
      details: { pattern },
    });
  if (pattern === '') throw bad('it is empty');
  if (pattern.length > 512) throw bad('it is longer than 512 characters');
  let source = '';
  let braces = false;
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i]!;
    if (c === '*' && pattern[i + 1] === '*') {
      i++;
      if (pattern[i + 1] === '.') {
        i++;
        source += '(?:[^.]+\\.)*'; // `**.x` also matches plain `x`
      } else {
        source += '.*';
      }
    } else if (c === '*') source += '[^.]*';
    else if (c === '?') source += '[^.]';
    else if (c === '{') {
      if (braces) throw bad('nested braces');
      braces = true;
      source += '(?:';
    } else if (c === '}') {
      if (!braces) throw bad('a closing brace without an opening one');
      braces = false;
      source += ')';
    } else if (c === ',' && braces) source += '|';
    else source += c.replace(/[\\^$.*+?()[\]{}|]/, '\\$&');
  }
  if (braces) throw bad('an opening brace without a closing one');
  const regex = new RegExp(`^${source}$`);
  return (text) => regex.test(text);
}

interface Matcher {
  readonly rule: Rule;
  readonly test: (site: { readonly path: string; readonly tag: string }) => boolean;
}

function matcher(rule: Rule): Matcher {
  const patterns: readonly unknown[] = Array.isArray(rule?.match) ? rule.match : [rule?.match];
  const use: unknown = rule?.use;
  const usable = use === 'keep' || (typeof use === 'object' && use !== null && 'quantize' in use);
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
  const tests = texts.map(glob);
  return { rule, test: (site) => tests.some((test) => test(site.path) || test(site.tag)) };
}

/**
 * The treatment of every site: that of the last rule whose pattern matches its path or tag, else `fallback`.
 * Throws ERR_BAD_ARGUMENT if a rule that is not optional matches no site at all, since that is nearly always a typing error.
 */
export function resolveRules<S extends Pick<LinearSite, 'path' | 'tag'>>(
  sites: readonly S[],
  rules: readonly Rule[],
  fallback: Treatment,
): Map<S, Treatment> {
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
      hint: `Tags of this model: ${tags.join(', ')}. Patterns match a tag or a full path.`,
      details: { match: idle.rule.match, tags },
    });
  }
  return treatments;
}
