import { readFileSync } from 'node:fs';

/** Version of this package. */
export function version(): string {
  // One level up both from src/ and from dist/.
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { readonly version: string };
  return manifest.version;
}
