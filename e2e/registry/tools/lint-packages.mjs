// What publint (strict) and are-the-types-wrong (modules alone: no `require` before Node 22) find in archives of packages, as JSON by archive.
//   node lint-packages.mjs ARCHIVE...
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const found = {};
for (const path of process.argv.slice(2)) {
  const data = readFileSync(path);
  const bytes = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  const { messages, pkg } = await publint({ pack: { tarball: bytes }, strict: true, level: 'suggestion' });
  const { types, problems = [] } = await checkPackage(createPackageFromTarballData(data));
  const wrong = problems.filter(
    ({ kind, resolutionKind }) => kind !== 'CJSResolvesToESM' && resolutionKind !== 'node10' && resolutionKind !== 'node16-cjs',
  );
  found[basename(path)] = [
    ...messages.map((message) => formatMessage(message, pkg, { color: false })),
    ...(types ? [] : ['it has no types']),
    ...wrong.map(({ kind, entrypoint, resolutionKind }) => `${kind} at ${entrypoint ?? 'a file'} (${resolutionKind ?? 'any'})`),
  ];
}
console.log(JSON.stringify(found));
