// Writes the table of families into packages/models/README.md. The test beside its maker says whether it is current.

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const { status } = spawnSync('npx', ['vitest', 'run', '--project', 'unit', 'packages/models/src/support-table.test.ts'], {
  cwd: fileURLToPath(new URL('..', import.meta.url)),
  env: { ...process.env, LOWBIT_WRITE: 'support-table' },
  stdio: 'inherit',
});
process.exitCode = status ?? 1;
