import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { findPlugins } from './method-plugin.ts';

/** A folder with the module `method.mjs`. */
function folderWith(text: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-method-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  writeFileSync(join(dir, 'method.mjs'), text);
  return dir;
}

const CODEC = "{ kind: 'c', parts() {}, unpackRows() {}, numbers() {}, dequantize() {} }";

it('a method may be an instance of a class', async () => {
  const from =
    folderWith(`class Method { get spec() { return 1; } get name() { return 'x'; } get layouts() { return [{ spec: 1, name: 'l' }]; } get codecs() { return [${CODEC}]; } quantizer() {} }
export default new Method();`);
  const { layouts, codecs } = await findPlugins(['./method.mjs'], { from });
  expect(layouts).toEqual([{ spec: 1, name: 'l' }]);
  expect(codecs.map(({ kind }) => kind)).toEqual(['c']);
});

it.each(['null', "'c'", "{ kind: 'c' }", CODEC.replace("kind: 'c'", 'kind: 1'), CODEC.replace('numbers() {}', 'numbers: 1')])(
  'refuses %s as a codec',
  async (codec) => {
    const from = folderWith(`export default { spec: 1, name: 'x', layouts: [], codecs: [${CODEC}, ${codec}], quantizer() {} };`);
    await expect(findPlugins(['./method.mjs'], { from })).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: './method.mjs has codecs that are none' }),
    );
  },
);
