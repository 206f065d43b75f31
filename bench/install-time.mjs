// What installing costs: seconds of `npm install` into a blank project and bytes in its node_modules, from a registry on this machine, with npm's cache warm and cold.
//   node bench/install-time.mjs [--rounds 3]     (after a build)
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { must, pack, publishedPackages, startRegistry, toolsProblem } from '../e2e/registry/registry.mjs';
import { median } from './spread.mjs';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' } } });
const problem = toolsProblem();
if (problem !== undefined) throw new Error(problem);

const entries = [
  ['@lowbit/core', '@lowbit/hqq'],
  ['@lowbit/core', '@lowbit/bnb'],
  ['@lowbit/core', '@lowbit/higgs'],
  ['@lowbit/core', '@lowbit/hub', '@lowbit/models', '@lowbit/kernels-cpu'],
  ['lowbit'],
];
const dir = mkdtempSync(join(tmpdir(), 'lowbit-install-'));
const registry = await startRegistry(dir);
const bytes = (path) => {
  const info = statSync(path);
  return info.isDirectory() ? readdirSync(path).reduce((sum, name) => sum + bytes(join(path, name)), 0) : info.size;
};
try {
  registry.publish(pack(publishedPackages(), join(dir, 'archives')));
  const times = entries.map(() => ({ cold: [], warm: [], bytes: 0 }));
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const [i, names] of entries.entries()) {
      const project = registry.project(`time-${round}-${i}`);
      for (const kind of ['cold', 'warm']) {
        rmSync(join(project, 'node_modules'), { recursive: true, force: true });
        rmSync(join(project, 'package-lock.json'), { force: true });
        const start = performance.now();
        must('npm', ['install', '--cache', join(project, '.npm'), ...names], project);
        times[i][kind].push((performance.now() - start) / 1000);
      }
      times[i].bytes = bytes(join(project, 'node_modules'));
    }
  }
  console.log('| installed | s, cold cache | s, warm cache | bytes |\n|---|---|---|---|');
  for (const [i, names] of entries.entries()) {
    const { cold, warm, bytes: size } = times[i];
    console.log(`| ${names.join(' ')} | ${median(cold).toFixed(1)} | ${median(warm).toFixed(1)} | ${size.toLocaleString('en')} |`);
  }
} finally {
  await registry.stop();
  rmSync(dir, { recursive: true, force: true });
}
