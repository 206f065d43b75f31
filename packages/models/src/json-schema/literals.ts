// A set of texts as a trie over their bytes: constants, enumerations and the keys of an object.

/** A place in the trie. */
export interface LiteralNode {
  readonly id: number;
  readonly next: ReadonlyMap<number, LiteralNode>;
  /** The text that ends here: its number; -1 where none does. */
  readonly ends: number;
  /** All that end here or further on, rising. */
  readonly all: readonly number[];
}

interface Growing {
  id: number;
  next: Map<number, Growing>;
  ends: number;
  all: number[];
}

let ids = 0;

/** The trie of texts; of equal texts the first counts. */
export function literals(texts: readonly Uint8Array[]): LiteralNode {
  const make = (): Growing => ({ id: ids++, next: new Map(), ends: -1, all: [] });
  const root = make();
  for (const [i, text] of texts.entries()) {
    let node = root;
    root.all.push(i);
    for (const byte of text) {
      const child: Growing = node.next.get(byte) ?? make();
      node.next.set(byte, child);
      node = child;
      node.all.push(i);
    }
    if (node.ends < 0) node.ends = i;
  }
  return root;
}
