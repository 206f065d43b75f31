// What answers of a server are checked for, wherever they come from: which bytes of a file they say they are, and that no more come than were asked for.

/** Bytes [from, to) of a file, and how many it has, where the server says so. */
export interface SentRange {
  readonly from: number;
  readonly to: number;
  readonly total: number | undefined;
}

/** Reads a Content-Range header of one range; undefined for what is none. */
export function readContentRange(text: string | null): SentRange | undefined {
  const said = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(text ?? '');
  return said === null
    ? undefined
    : { from: Number(said[1]), to: Number(said[2]) + 1, total: said[3] === '*' ? undefined : Number(said[3]) };
}

/** Pieces of a body. What is left when the caller stops is given up. */
export async function* bodyPieces({ body }: Response): AsyncGenerator<Uint8Array, void> {
  const reader = body?.getReader();
  try {
    while (reader !== undefined) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader?.cancel().catch(() => {}); // it may have failed already
  }
}

/** Fills `into` from its start; resolves to the bytes that came. One byte more than there is room for throws what `tooMany` gives, and ends the reading. */
export async function fill(into: Uint8Array, pieces: AsyncIterable<Uint8Array>, tooMany: () => Error): Promise<number> {
  let at = 0;
  for await (const piece of pieces) {
    if (piece.byteLength > into.byteLength - at) throw tooMany();
    into.set(piece, at);
    at += piece.byteLength;
  }
  return at;
}

/** All bytes of a body of unknown length, at most `maxBytes` of them: more throw what `tooMany` gives. */
export async function collect(pieces: AsyncIterable<Uint8Array>, maxBytes: number, tooMany: () => Error): Promise<Uint8Array> {
  const kept: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of pieces) {
    bytes += piece.byteLength;
    if (bytes > maxBytes) throw tooMany();
    kept.push(piece);
  }
  const whole = new Uint8Array(bytes);
  let at = 0;
  for (const piece of kept) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole;
}
