// @ts-check
// Makes the package that brings the addon, with its kernels, to this platform: node pack-platform.mjs --out DIR (a new folder). See tools/pack-platform.mjs.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { packPlatform } from '../../tools/pack-platform.mjs';

let targets = '';
process.exitCode = await packPlatform({
  home: new URL('.', import.meta.url).href,
  file: 'lowbit_cuda.node',
  mostBytes: 5_000_000,
  describe(file) {
    /** @type {import('./dist/index.js').CudaBinding} */
    const addon = createRequire(import.meta.url)(file);
    const image = addon.image();
    if (image.bytes === 0) throw new Error('the addon has no kernels: build it where nvcc is (LOWBIT_NVCC=path node build-native.mjs)');
    targets = image.targets;
    return `, with kernels for ${targets} (CUDA ${Math.floor(image.version / 1000)}.${(image.version % 1000) / 10})`;
  },
  // It loads, and says what it is. A GPU is not needed for that.
  tryIt(folder) {
    const code = `const { createRequire } = await import('node:module');
      console.log(createRequire(import.meta.url)(${JSON.stringify(folder)}).image().targets);`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    return { works: status === 0 && stdout.trim() === targets, said: `${stdout}${stderr}` };
  },
});
