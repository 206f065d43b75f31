// @ts-check
// `npm run test:scale`: one model quantized by workers of a queue that are killed at random. Needs redis-server, and fails without it.
import { build, install, run } from './workspace.mjs';

const env = { LOWBIT_SCALE: '1', LOWBIT_REQUIRE: [process.env.LOWBIT_REQUIRE, 'redis'].filter(Boolean).join(',') };
process.exitCode = install() && build() && run('vitest', ['run', '--project', 'scale', ...process.argv.slice(2)], env) ? 0 : 1;
