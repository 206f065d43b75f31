// Globs over module paths, matched in time that grows with pattern times text, whatever the pattern: lists of modules come from strangers' files.

import { LowbitError } from './spec/errors.ts';

const MOST_CHARACTERS = 512;
const MOST_ALTERNATIVES = 1024;

/**
 * Turns a glob into a test. `*` matches within one dot component, `**` any number of components, `?` one character, `{a,b}` alternatives
 * (not nested). Everything else is literal. Throws ERR_BAD_ARGUMENT for an unusable pattern.
 */
export function glob(pattern: string): (text: string) => boolean {
  return globs([pattern]);
}

/** Whether a pattern is a text that matches itself alone. */
export const isLiteral = (pattern: string): boolean => !/[*?{}]/.test(pattern);

/** The test of several globs at once: whether one of them matches. However many of them are literal, those cost one look-up together. */
export function globs(patterns: readonly string[]): (text: string) => boolean {
  const literals = new Set<string>();
  const machines: (readonly Step[])[] = [];
  for (const pattern of patterns) {
    for (const alternative of alternatives(pattern)) {
      if (isLiteral(alternative)) literals.add(alternative);
      else machines.push(compile(alternative));
    }
  }
  return (text) => literals.has(text) || machines.some((machine) => accepts(machine, text));
}

/** The patterns without braces that a pattern stands for. Throws ERR_BAD_ARGUMENT for an unusable one. */
function alternatives(pattern: string): readonly string[] {
  const bad = (why: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `unusable pattern ${JSON.stringify(pattern)}: ${why}`, {
      hint: 'Use a tag such as self_attn.q_proj or a glob such as **.{v,down}_proj.',
      details: { pattern },
    });
  if (pattern === '') throw bad('it is empty');
  if (pattern.length > MOST_CHARACTERS) throw bad(`it is longer than ${MOST_CHARACTERS} characters`);
  let plain = [''];
  for (const part of pattern.split(/(\{[^{}]*\})/)) {
    const isChoice = part.startsWith('{') && part.endsWith('}');
    if (!isChoice && /[{}]/.test(part)) {
      if (/\{.*\{/.test(pattern)) throw bad('nested or unclosed braces');
      throw bad(part.includes('{') ? 'an opening brace without a closing one' : 'a closing brace without an opening one');
    }
    const choices = isChoice ? part.slice(1, -1).split(',') : [part];
    if (plain.length * choices.length > MOST_ALTERNATIVES) throw bad(`it stands for more than ${MOST_ALTERNATIVES} alternatives`);
    plain = plain.flatMap((start) => choices.map((choice) => start + choice));
  }
  return plain;
}

/**
 * A step of a plain glob. `components` is `**.`: any number of whole components, each with its dot; `inside` is within one of them.
 * All but `char` and `one` may also match nothing, `inside` needs its dot.
 */
type Step = { readonly kind: 'char'; readonly char: string } | { readonly kind: 'one' | 'many' | 'all' | 'components' | 'inside' };

function compile(pattern: string): readonly Step[] {
  const steps: Step[] = [];
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern[i]!;
    if (char === '?') steps.push({ kind: 'one' });
    else if (char !== '*') steps.push({ kind: 'char', char });
    else if (pattern[i + 1] !== '*') steps.push({ kind: 'many' });
    else if (pattern[i + 2] === '.') {
      steps.push({ kind: 'components' }, { kind: 'inside' });
      i += 2;
    } else {
      steps.push({ kind: 'all' });
      i++;
    }
  }
  return steps;
}

/** Follows all ways through the steps at once. */
function accepts(steps: readonly Step[], text: string): boolean {
  let now = new Uint8Array(steps.length + 1);
  let next = new Uint8Array(steps.length + 1);
  enter(steps, now, 0);
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!;
    for (let at = 0; at < steps.length; at++) {
      if (now[at] === 0) continue;
      const step = steps[at]!;
      if (step.kind === 'char' ? step.char === char : step.kind === 'one' && char !== '.') enter(steps, next, at + 1);
      else if (step.kind === 'all' || (step.kind === 'many' && char !== '.')) enter(steps, next, at);
      else if (step.kind === 'components' && char !== '.') next[at + 1] = 1;
      else if (step.kind === 'inside') {
        if (char === '.') enter(steps, next, at - 1);
        else next[at] = 1;
      }
    }
    [now, next] = [next, now.fill(0)];
  }
  return now[steps.length] === 1;
}

/** Reaches a step, and those after it where it may match nothing. */
function enter(steps: readonly Step[], states: Uint8Array, at: number): void {
  for (let i = at; states[i] === 0; ) {
    states[i] = 1;
    const kind = steps[i]?.kind;
    if (kind === 'many' || kind === 'all') i++;
    else if (kind === 'components') i += 2;
    else return;
  }
}
