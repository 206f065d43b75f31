#!/usr/bin/env node
// The `lowbit` command. Everything it does is in run.ts; this file only joins it to the process.

import { run } from './run.ts';

// The exit code is set rather than exited with, so that what was written to a pipe is delivered first.
void run(process.argv.slice(2)).then((code) => {
  process.exitCode = code;
});
