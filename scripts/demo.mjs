// @ts-check
// `npm run demo`: install and build what is missing, then run the demo; further arguments go to it.
import { build, install, run } from './workspace.mjs';

const ok = install() && build() && run('node', ['examples/demo.mjs', ...process.argv.slice(2)]);
process.exitCode = ok ? 0 : 1;
