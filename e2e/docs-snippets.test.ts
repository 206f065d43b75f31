// The TypeScript of the pages of docs/: all of it is checked by the compiler, and what stands on its own is run as it stands, on the small model.

import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type Block, blocksOf, docsPages, root, writeModules } from './markdown.ts';

/** Pages whose blocks run elsewhere, with what they leave out: from-python.test.ts, hqq-readme.test.ts, higgs-readme.test.ts. */
const GIVEN = `declare const weight: import('@lowbit/core').HostTensor;
declare const [bias, x]: [typeof weight, typeof weight];
declare const runtime: import('@lowbit/core').Runtime;
declare const model: import('@lowbit/models').LanguageModel;
`;
const ELSEWHERE: Readonly<Record<string, string>> = { 'docs/hqq.md': GIVEN, 'docs/higgs.md': GIVEN };
/** Removes what is in the cache of whoever runs it. */
const UNSAFE = ['docs/native-cpu.md'];

const isTs = ({ language }: Block): boolean => language === 'ts';
const pages = docsPages()
  .filter((page) => !page.startsWith('docs/decisions/'))
  .map((page) => ({ page, blocks: blocksOf(page).filter(isTs) }))
  .filter(({ blocks }) => blocks.length > 0);
const runs = pages
  .filter(({ page }) => !(page in ELSEWHERE) && !UNSAFE.includes(page) && !page.startsWith('docs/from-python'))
  .map(({ page, blocks }) => ({ page, blocks: blocks.filter(({ notes }) => !notes.includes('no-run')) }))
  .filter(({ blocks }) => blocks.length > 0);

const generated = join(root, 'e2e', '.generated-docs');
let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-docs-'));
  symlinkSync(join(root, 'examples'), join(dir, 'examples'));
});
afterAll(() => {
  rmSync(dir, { recursive: true, force: true });
  rmSync(generated, { recursive: true, force: true });
});

it('has the pages that it is about', () => {
  const names = runs.map(({ page }) => page);
  expect(names).toEqual(
    expect.arrayContaining(['docs/start.md', 'docs/errors.md', 'docs/deployment.md', 'docs/methods/hqq.md', 'docs/extend/method.md']),
  );
});

it('every block compiles', () => {
  const files = pages.flatMap(({ page, blocks }) => writeModules(`types-${page}`, blocks, ELSEWHERE[page]));
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files }, ts.sys, root);
  const program = ts.createProgram(files, {
    ...options,
    noUnusedLocals: false,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts', 'lib.dom.d.ts', 'lib.dom.asynciterable.d.ts'],
  });
  const problems = files.flatMap((file) => {
    const source = program.getSourceFile(file)!;
    return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map((one) => {
      const line = source.getLineAndCharacterOfPosition(one.start ?? 0).line;
      return `${file.slice(generated.length + 1)}: ${ts.flattenDiagnosticMessageText(one.messageText, '\n')}: ${source.text.split('\n')[line]}`;
    });
  });
  expect(problems).toEqual([]);
});

describe('runs', () => {
  it.each(runs)('$page', async ({ page, blocks }) => {
    const said: unknown[][] = [];
    vi.spyOn(process, 'cwd').mockReturnValue(dir);
    for (const where of ['log', 'error'] as const) vi.spyOn(console, where).mockImplementation((...values) => void said.push(values));
    try {
      for (const file of writeModules(page, blocks)) await import(/* @vite-ignore */ file);
    } finally {
      vi.restoreAllMocks();
    }
    if (/console\.(?:log|error)/.test(blocks.map(({ code }) => code).join(''))) expect(said.length).toBeGreaterThan(0);
  });
});
