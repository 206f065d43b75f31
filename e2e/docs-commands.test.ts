// The commands of the pages: those of the guides are run in order, as a reader would; flags of all others are parsed by the program itself, and scripts, files and
// packages that a line names must be there.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProgram } from '../packages/cli/src/command-line.ts';
import { ensureBuilt, lowbit } from './cli-process.ts';
import { blocksOf, docsPages, root } from './markdown.ts';
import { type Command, commandsOf } from './shell.ts';

/** Pages that are read from top to bottom, with the small model at hand. */
const GUIDES = [
  'docs/start.md',
  'docs/methods/hqq.md',
  'docs/methods/bitsandbytes.md',
  'docs/methods/higgs.md',
  'docs/from-python.md',
  'docs/backends.md',
];

const pages = [
  ...['README.md', 'CONTRIBUTING.md', 'website/README.md', ...docsPages()],
  ...readdirSync(join(root, 'packages')).map((name) => `packages/${name}/README.md`),
  ...['backend-plugin', 'jax-js', 'playground', 'tiny-llama'].map((name) => `examples/${name}/README.md`),
];
const commands = pages.flatMap((page) =>
  blocksOf(page)
    .filter(({ language }) => language === 'sh')
    .flatMap((block) => commandsOf(block)),
);

const manifest = (path: string) => JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8'));
const ours = new Set(readdirSync(join(root, 'packages')).map((name) => manifest(`packages/${name}`).name as string));
const others = new Set(['webgpu', 'sharp', '@jax-js/jax', '@huggingface/hub']);

class Parsed extends Error {}

/** Whether the program takes these words; no command is run. */
async function parses(words: readonly string[]): Promise<void> {
  const program = createProgram(() => {
    throw new Parsed();
  });
  await expect(program.parseAsync([...words], { from: 'user' })).rejects.toBeInstanceOf(Parsed);
}

/** Files of the repository among the words of a command, from its root or from the folder of the page. */
function filesExist({ page, words }: Command): void {
  for (const word of words.filter((one) => /^[\w@.-]+(?:\/[\w@.-]+)+\.(?:mjs|ts|js|py|sh|json)$/.test(one))) {
    const places = [root, join(root, page, '..')].map((from) => join(from, word));
    expect(places.some((place) => existsSync(place)) || /(?:^|\/)my-/.test(word), `${page}: ${word}`).toBe(true);
  }
}

/** Throws unless the line is one that can be right. */
async function check(command: Command): Promise<void> {
  const [program = '', ...words] = command.words;
  filesExist(command);
  const scripts = {
    ...manifest('.').scripts,
    ...(existsSync(join(root, command.page, '../package.json')) ? manifest(join(command.page, '..')).scripts : {}),
  };
  const script = (name: string | undefined): void => expect(Object.keys(scripts), command.text).toContain(name);
  switch (program) {
    case 'lowbit':
      return parses(words);
    case 'npx':
      if (words[0] === 'lowbit') return parses(words.slice(1));
      if (words[0] === 'pnpm') return words[1] === 'install' ? undefined : script(words[1]);
      return expect(['vitest', 'turbo', 'vite'], command.text).toContain(words[0]);
    case 'npm':
      if (words[0] === 'test') return script('test');
      if (words[0] === 'run') return script(words[1]);
      expect(words[0], command.text).toBe('install');
      for (const name of words.slice(1).filter((word) => !word.startsWith('-')))
        expect(ours.has(name) || others.has(name), command.text).toBe(true);
      return;
    default:
      // Python and apt of the pages that say how fixtures and system packages are had.
      expect(
        ['node', 'cp', 'head', 'python', 'python3', 'pip', 'apt-get', 'bash', 'cd', 'mkdir', 'git'],
        `${command.page}: ${command.text}`,
      ).toContain(program);
  }
}

it('finds commands', () => {
  expect(commands.length).toBeGreaterThan(60);
  expect(commands.filter(({ words }) => words.includes('lowbit')).length).toBeGreaterThan(30);
});

it.each(commands)('$page:$line $text', (command) => check(command));

it('refuses a flag that is not there', async () => {
  await expect(parses(['quantize', 'model', '-o', 'out', '--bitz', '4'])).rejects.toThrow();
});

describe('run as they stand', () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-docs-commands-'));
  beforeAll(() => {
    ensureBuilt();
    symlinkSync(join(root, 'examples'), join(dir, 'examples'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  it.each(GUIDES)('%s', async (page) => {
    let count = 0;
    for (const { words, env, text, into } of commands.filter((command) => command.page === page)) {
      if (words[0] === 'npx' && words[1] === 'lowbit') {
        // Needs what a reader has and a test has not: a backend of his own, a GPU.
        const given = words.indexOf('--backend');
        if (given >= 0 && !['auto', 'cpu', 'reference'].includes(words[given + 1]!)) continue;
        const { code, stderr } = await lowbit(words.slice(2), { cwd: dir, env: { LOWBIT_CACHE: 'off', ...env } });
        expect([code, stderr], `${page}: ${text}`).toEqual([0, expect.any(String)]);
        count++;
      } else if (words[0] === 'head') {
        const { stdout } = spawnSync('head', words.slice(1), { cwd: dir });
        writeFileSync(join(dir, into!), stdout);
      }
    }
    expect(count).toBeGreaterThan(0);
  });
});
