// @ts-check
// `npm run docs`: install what is missing and make the site of the documentation in website/dist; `npm run docs -- --serve` shows it on http://localhost:4173.
import { install, run } from './workspace.mjs';

process.exitCode = install() && run('node', ['website/build.mjs', ...process.argv.slice(2)]) ? 0 : 1;
