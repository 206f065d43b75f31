// @ts-check
// `npm run playground`: install and build what is missing, then serve the playground; further arguments go to Vite.
import { fileURLToPath } from 'node:url';
import { build, install, run } from './workspace.mjs';

const page = fileURLToPath(new URL('../examples/playground', import.meta.url));
const ok = install() && build() && run('vite', [page, ...process.argv.slice(2)]);
process.exitCode = ok ? 0 : 1;
