// Whether bytes are those that a listing names.

import { corrupted } from './errors.ts';
import type { RemoteEntry } from './listing.ts';

/** Throws ERR_INTEGRITY unless `bytes` are the content of the file. For files that fit into memory. */
export async function checkDigest({ path, etag }: RemoteEntry, bytes: Uint8Array): Promise<void> {
  const sha256 = etag.length === 64;
  const digest = await crypto.subtle.digest(sha256 ? 'SHA-256' : 'SHA-1', (sha256 ? bytes : gitBlob(bytes)) as Uint8Array<ArrayBuffer>);
  const actual = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (actual !== etag) throw corrupted(path, 'what came is not what the listing names', { expected: etag, actual });
}

/** What git takes the SHA-1 of. */
function gitBlob(bytes: Uint8Array): Uint8Array {
  const head = gitHead(bytes.byteLength);
  const whole = new Uint8Array(head.byteLength + bytes.byteLength);
  whole.set(head);
  whole.set(bytes, head.byteLength);
  return whole;
}

export function gitHead(size: number): Uint8Array {
  return new TextEncoder().encode(`blob ${size}\0`);
}
