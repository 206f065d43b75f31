// A file as a Blob that is read piece by piece, and tells how far. (`openAsBlob` of Node 20 is experimental, and tells nothing.)

import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { readFully } from '../io.node.ts';

export class CountedFile extends Blob {
  readonly #path: string;
  readonly #from: number;
  readonly #to: number;
  readonly #onBytes: (bytes: number) => void;

  constructor(path: string, from: number, to: number, onBytes: (bytes: number) => void) {
    super([]);
    Object.defineProperty(this, 'size', { value: to - from });
    this.#path = path;
    this.#from = from;
    this.#to = to;
    this.#onBytes = onBytes;
  }

  override slice(from = 0, to = this.size): Blob {
    const end = Math.min(this.#to, this.#from + to);
    return new CountedFile(this.#path, Math.min(end, this.#from + from), end, this.#onBytes);
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    const file = await open(this.#path, 'r');
    try {
      const bytes = new Uint8Array(this.size);
      await readFully(file, bytes, this.#from);
      this.#onBytes(bytes.byteLength);
      return bytes.buffer;
    } finally {
      await file.close();
    }
  }

  override async text(): Promise<string> {
    return new TextDecoder().decode(await this.arrayBuffer());
  }

  override stream(): ReturnType<Blob['stream']> {
    if (this.size === 0) return new Blob([]).stream();
    const file = createReadStream(this.#path, { start: this.#from, end: this.#to - 1 });
    const counted = file.map((piece: Buffer) => {
      this.#onBytes(piece.byteLength);
      return piece;
    });
    return Readable.toWeb(counted) as ReturnType<Blob['stream']>;
  }
}
