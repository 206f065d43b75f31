// Commands of a block of shell: enough of the language for what pages have, and an error for what it does not know.

import type { Block } from './markdown.ts';

export interface Command {
  readonly page: string;
  readonly line: number;
  readonly text: string;
  readonly words: readonly string[];
  /** Variables set for it alone. */
  readonly env: Readonly<Record<string, string>>;
  /** File that its output goes to. */
  readonly into: string | undefined;
}

/** Words of a line, quotes taken away; what follows a `#` at the start of a word is a remark. */
function wordsOf(line: string): string[] {
  const words: string[] = [];
  for (const [, space, bare, single, double] of line.matchAll(/(\s+)|([^\s'"]+)|'([^']*)'|"([^"]*)"/g)) {
    if (space !== undefined) words.push('');
    else if (bare?.startsWith('#') && (words.at(-1) ?? '') === '') break;
    else words.push((words.pop() ?? '') + (bare ?? single ?? double ?? ''));
  }
  return words.filter((word) => word !== '');
}

/** The commands of a block, in order. `A && B`, `A; B` and `(A)` are taken apart. */
export function commandsOf({ page, line, code }: Block): Command[] {
  return code
    .replaceAll('\\\n', ' ')
    .split('\n')
    .flatMap((text, i) =>
      wordsOf(text)
        .join('\0')
        .split(/\0?(?:&&|;)\0?/)
        .map((part) => ({
          line: line + 1 + i,
          all: part
            .replace(/^\(|\)$/g, '')
            .split('\0')
            .filter(Boolean),
        })),
    )
    .flatMap(({ all, line }) => {
      const redirect = all.indexOf('>');
      const words = redirect < 0 ? all : all.slice(0, redirect);
      const first = words.findIndex((word) => !/^[A-Z_]+=/.test(word));
      if (first < 0) return [];
      const env = Object.fromEntries(
        words.slice(0, first).map((word) => [word.slice(0, word.indexOf('=')), word.slice(word.indexOf('=') + 1)]),
      );
      return [{ page, line, text: all.join(' '), words: words.slice(first), env, into: redirect < 0 ? undefined : all[redirect + 1] }];
    });
}
