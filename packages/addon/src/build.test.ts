import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

const build = new URL('../build.mjs', import.meta.url).href;
let dir = '';
let home = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-build-'));
  home = join(dir, 'kernels-made');
  mkdirSync(join(home, 'native'), { recursive: true });
  for (const name of ['CMakeLists.txt', 'package.json']) writeFileSync(join(home, name), '{}');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** What building does on a machine without any tool. */
function built(required: string) {
  const code = `import { buildAddon } from ${JSON.stringify(build)};
process.exitCode = buildAddon({ home: ${JSON.stringify(`${pathToFileURL(home).href}/`)}, file: 'made.node' });`;
  const env = { PATH: dir, LOWBIT_REQUIRE: required };
  return spawnSync(process.execPath, ['--input-type=module', '-e', code], { env, encoding: 'utf8' });
}

it('goes on without a toolchain, and fails where LOWBIT_REQUIRE names the package, spaces or none', () => {
  for (const [required, status] of [
    ['', 0],
    ['kernels-other', 0],
    ['kernels-made', 1],
    ['gpu, kernels-made ', 1],
  ] as const) {
    const { status: was, stderr } = built(required);
    expect({ required, was }).toEqual({ required, was: status });
    expect(stderr).toContain('kernels-made: NOT BUILT, this machine has no ');
    expect(stderr.includes('LOWBIT_REQUIRE names it')).toBe(status === 1);
  }
});
