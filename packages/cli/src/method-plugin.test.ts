import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { findPlugins } from './method-plugin.ts';

it('a method may be an instance of a class', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-method-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  writeFileSync(
    join(dir, 'method.mjs'),
    `class Method { get spec() { return 1; } get name() { return 'x'; } get layouts() { return [{ spec: 1, name: 'l' }]; } get codecs() { return [{ kind: 'c' }]; } quantizer() {} }
export default new Method();`,
  );
  expect(await findPlugins(['./method.mjs'], { from: dir })).toEqual({ layouts: [{ spec: 1, name: 'l' }], codecs: [{ kind: 'c' }] });
});
