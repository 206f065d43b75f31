// @ts-check
// Names the packages of platforms that a release has made in the manifest of the package whose addon they bring, as optionalDependencies of exactly its version.
//
// Usage: node scripts/add-platforms.mjs PACKAGE FOLDER... (a folder of packages/, and folders that its pack-platform.mjs made)
// Between publishing those and publishing the package: docs/decisions/015. Not to be committed: an install in a clone would look for what is not there yet.
import { readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { root } from './workspace.mjs';

/** @type {(folder: string) => any} */
const manifestOf = (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
/** @type {{ name: string }[]} */
const platforms = JSON.parse(readFileSync(join(root, 'tools/platforms.json'), 'utf8'));

/**
 * @param {string} home the package's folder
 * @param {readonly string[]} folders
 */
export function addPlatforms(home, folders) {
  const manifest = manifestOf(home);
  const known = new Set(platforms.map(({ name }) => `${manifest.name}-${name}`));
  /** @type {Record<string, string>} */
  const optionalDependencies = {};
  for (const folder of folders) {
    const { name, version } = manifestOf(folder);
    if (!known.has(name)) throw new Error(`${name} is none of the platforms of ${manifest.name} in tools/platforms.json`);
    if (version !== manifest.version) throw new Error(`${name} is version ${version}, ${manifest.name} is ${manifest.version}`);
    optionalDependencies[name] = version;
  }
  writeFileSync(join(home, 'package.json'), `${JSON.stringify({ ...manifest, optionalDependencies }, null, 2)}\n`);
}

if (process.argv[1] === import.meta.filename) {
  const [name, ...folders] = process.argv.slice(2);
  if (name === undefined || folders.length === 0) {
    console.error('node scripts/add-platforms.mjs PACKAGE FOLDER...');
    process.exitCode = 2;
  } else
    addPlatforms(
      join(root, 'packages', name),
      folders.map((folder) => resolve(folder)),
    );
}
