// @ts-check
// Makes the package that brings the addon to this platform: node pack-platform.mjs --out DIR (a new folder). See tools/pack-platform.mjs.
import { spawnSync } from 'node:child_process';
import { packPlatform } from '../../tools/pack-platform.mjs';

process.exitCode = await packPlatform({
  home: new URL('.', import.meta.url).href,
  file: 'lowbit_cpu.node',
  mostBytes: 2_000_000,
  describe: () => '',
  tryIt(folder) {
    const code = `import { cpu } from ${JSON.stringify(new URL('dist/index.js', import.meta.url).href)};
      const { createRequire } = await import('node:module');
      const file = createRequire(import.meta.url).resolve(${JSON.stringify(folder)});
      const probe = await cpu({ binding: file }).probe();
      console.log(probe.ok ? probe.detail : probe.reason);
      process.exitCode = probe.ok ? 0 : 1;`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
    return { works: status === 0, said: `${stdout}${stderr}` };
  },
});
