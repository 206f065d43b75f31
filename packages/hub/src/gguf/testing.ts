// Writes GGUF files for tests: after the format's description, and apart from the reader under test.

export type Value =
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly u64: bigint }
  | { readonly flag: boolean }
  | { readonly text: string }
  | { readonly texts: readonly string[] }
  | { readonly i32s: readonly number[] }
  | { readonly f32s: readonly number[] };

export interface TensorToWrite {
  readonly name: string;
  /** As at Hugging Face: the row length last. */
  readonly shape: readonly number[];
  readonly type: number;
  readonly data: Uint8Array;
  /** In place of the next free one. */
  readonly offset?: number;
}

export interface GgufToWrite {
  readonly version?: number;
  readonly alignment?: number;
  readonly metadata: Readonly<Record<string, Value>>;
  readonly tensors: readonly TensorToWrite[];
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

function f32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

export function text(value: string): Buffer {
  return Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
}

function encode(value: Value): Buffer {
  if ('u32' in value) return Buffer.concat([u32(4), u32(value.u32)]);
  if ('f32' in value) return Buffer.concat([u32(6), f32(value.f32)]);
  if ('u64' in value) return Buffer.concat([u32(10), u64(value.u64)]);
  if ('flag' in value) return Buffer.concat([u32(7), Buffer.from([value.flag ? 1 : 0])]);
  if ('text' in value) return Buffer.concat([u32(8), text(value.text)]);
  const list = (type: number, items: Buffer[]) => Buffer.concat([u32(9), u32(type), u64(items.length), ...items]);
  if ('texts' in value) return list(8, value.texts.map(text));
  if ('i32s' in value) return list(5, value.i32s.map(u32));
  return list(6, value.f32s.map(f32));
}

/** The bytes of a file. */
export function writeGguf({ version = 3, alignment = 32, metadata, tensors }: GgufToWrite): Buffer {
  const keys = Object.entries(metadata).map(([key, value]) => Buffer.concat([text(key), encode(value)]));
  if (alignment !== 32) keys.push(Buffer.concat([text('general.alignment'), u32(4), u32(alignment)]));
  const infos: Buffer[] = [];
  const data: Buffer[] = [];
  let offset = 0;
  for (const tensor of tensors) {
    const dimensions = [...tensor.shape].reverse().map(u64);
    infos.push(Buffer.concat([text(tensor.name), u32(dimensions.length), ...dimensions, u32(tensor.type), u64(tensor.offset ?? offset)]));
    const padding = -tensor.data.byteLength & (alignment - 1);
    data.push(Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength), Buffer.alloc(padding));
    offset += tensor.data.byteLength + padding;
  }
  const head = Buffer.concat([Buffer.from('GGUF'), u32(version), u64(tensors.length), u64(keys.length), ...keys, ...infos]);
  return Buffer.concat([head, Buffer.alloc(-head.byteLength & (alignment - 1)), ...data]);
}

/** Numbers as f32. */
export function f32Bytes(values: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** Metadata of a small Llama without a tokenizer. */
export const SMALL_LLAMA: Readonly<Record<string, Value>> = {
  'general.architecture': { text: 'llama' },
  'llama.block_count': { u32: 1 },
  'llama.context_length': { u32: 128 },
  'llama.embedding_length': { u32: 32 },
  'llama.feed_forward_length': { u32: 64 },
  'llama.attention.head_count': { u32: 4 },
  'llama.attention.head_count_kv': { u32: 2 },
  'llama.attention.layer_norm_rms_epsilon': { f32: 1e-5 },
};

/** The tensors of that model, f32, from a small generator. */
export function smallLlamaTensors(): TensorToWrite[] {
  let state = 12345;
  const numbers = (count: number) =>
    f32Bytes(
      Array.from({ length: count }, () => {
        state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
        return state / 0x40000000 - 1;
      }),
    );
  const shapes: [string, number[]][] = [
    ['token_embd.weight', [48, 32]],
    ['output_norm.weight', [32]],
    ['blk.0.attn_norm.weight', [32]],
    ['blk.0.ffn_norm.weight', [32]],
    ['blk.0.attn_q.weight', [32, 32]],
    ['blk.0.attn_k.weight', [16, 32]],
    ['blk.0.attn_v.weight', [16, 32]],
    ['blk.0.attn_output.weight', [32, 32]],
    ['blk.0.ffn_gate.weight', [64, 32]],
    ['blk.0.ffn_up.weight', [64, 32]],
    ['blk.0.ffn_down.weight', [32, 64]],
  ];
  return shapes.map(([name, shape]) => ({ name, shape, type: 0, data: numbers(shape.reduce((a, b) => a * b)) }));
}
