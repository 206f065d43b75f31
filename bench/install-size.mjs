// Unpacked size of what `npm install @lowbit/core @lowbit/hqq` puts on disk: packs both as they would be published and adds up the files.
//   node bench/install-size.mjs [PACKAGE ...]   (folders under packages/; default core hqq)

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const packages = process.argv.length > 2 ? process.argv.slice(2) : ['core', 'hqq'];
const dir = mkdtempSync(join(tmpdir(), 'lowbit-pack-'));
let total = 0;
for (const name of packages) {
  const cwd = join(root, 'packages', name);
  execFileSync('npx', ['pnpm', 'pack', '--pack-destination', dir], { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
}
for (const file of execFileSync('ls', [dir], { encoding: 'utf8' }).trim().split('\n')) {
  const sizes = execFileSync('tar', ['-tvzf', join(dir, file)], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => Number(line.split(/\s+/)[2]));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  total += bytes;
  console.log(`${file}: ${sizes.length} files, ${bytes} bytes unpacked`);
}
console.log(`total: ${total} bytes`);
rmSync(dir, { recursive: true, force: true });
