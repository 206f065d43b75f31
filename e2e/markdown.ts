// Blocks of code in pages, and running the TypeScript of one.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root: string = fileURLToPath(new URL('..', import.meta.url));

/** The pages below docs/, reports of interfaces apart. */
export function docsPages(): string[] {
  return readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .map((name) => `docs/${name.replaceAll('\\', '/')}`)
    .filter((name) => name.endsWith('.md') && !name.startsWith('docs/api/'))
    .sort();
}

export interface Block {
  readonly page: string;
  /** Line of the page that it begins on, from 1. */
  readonly line: number;
  readonly language: string;
  /** What stands after the language: `no-run`. */
  readonly notes: readonly string[];
  readonly code: string;
}

/** The fenced blocks of a page of the repository. */
export function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), 'utf8');
  return [...text.matchAll(/^```(\S*)([^\n]*)\n([\s\S]*?)^```$/gm)].map(({ index, 1: language = '', 2: notes = '', 3: code = '' }) => ({
    ...{ page, language, code, line: text.slice(0, index).split('\n').length },
    notes: notes.trim().split(/\s+/).filter(Boolean),
  }));
}

const IMPORT = /^import \{ ([^}]*) \} from '([^']*)';\n/gm;

/** Where each name comes from that a block imports. */
function importsOf({ code }: Block): Map<string, string> {
  const found = [...code.matchAll(IMPORT)].flatMap(([, names = '', from = '']) => names.split(', ').map((name) => [name, from] as const));
  return new Map(found);
}

/** Blocks that can be one module: a block that imports a name from elsewhere than those before it begins another. */
function together(blocks: readonly Block[]): Block[][] {
  const groups: { blocks: Block[]; names: Map<string, string> }[] = [];
  for (const block of blocks) {
    const imports = importsOf(block);
    const last = groups.at(-1);
    if (last && [...imports].every(([name, from]) => (last.names.get(name) ?? from) === from)) {
      last.blocks.push(block);
      for (const [name, from] of imports) last.names.set(name, from);
    } else groups.push({ blocks: [block], names: imports });
  }
  return groups.map((group) => group.blocks);
}

/**
 * One module of TypeScript: imports at the top, after `given`. A declaration at the first level of a block is seen by the blocks after it, and a later one of the
 * same name hides it.
 */
function moduleOf(blocks: readonly Block[], given: string): string {
  const names = new Map(blocks.flatMap((block) => [...importsOf(block)]));
  const head = [...names].map(([name, from]) => `import { ${name} } from '${from}';`).join('\n');
  const bodies = blocks.map(({ code }) => `{\n${code.replace(IMPORT, '')}`).join('\n');
  return `${given}${head}\n${bodies}\n${'}'.repeat(blocks.length)}\nexport {};\n`;
}

/** Writes the modules of a page where imports of packages mean their sources; whoever calls removes them. */
export function writeModules(name: string, blocks: readonly Block[], given = ''): string[] {
  const dir = join(root, 'e2e', '.generated-docs');
  mkdirSync(dir, { recursive: true });
  return together(blocks).map((group, i) => {
    const file = join(dir, `${name.replaceAll('/', '-').replace(/\.md$/, '')}-${i}.ts`);
    writeFileSync(file, moduleOf(group, given));
    return file;
  });
}
