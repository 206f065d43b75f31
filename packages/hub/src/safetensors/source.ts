// Safetensors files as tensors: headers are read once, tensors by reads of exactly the bytes asked for.

import { DTYPE_BYTES } from '@lowbit/core';
import type { RandomFile } from '../file.ts';
import type { FileFormat } from '../file-source.ts';
import { allocate, type FileSource, type SourceFile } from '../reading.ts';
import { badSafetensors, headerLength, parseHeader, type SafetensorsHeader } from './header.ts';

/** One open file of a source. */
export interface SafetensorsFile extends SourceFile {
  readonly header: SafetensorsHeader;
}

export interface SafetensorsSource extends FileSource {
  readonly files: readonly SafetensorsFile[];
}

export const SAFETENSORS: FileFormat<SafetensorsFile> = {
  async open(regular, signal) {
    const { path } = regular;
    const file = await readHeader(regular, signal);
    const { tensors } = file.header;
    return {
      file,
      tensors,
      place(name) {
        const { start, end } = tensors.get(name)!;
        return [start, end];
      },
      async read(name, from, to, signal) {
        const { dtype, start, end } = tensors.get(name)!;
        const width = DTYPE_BYTES[dtype];
        const data = allocate(name, (to - from) * width);
        const bytes = await regular.read(data, start + from * width, signal, end);
        if (bytes < data.byteLength) throw badSafetensors(path, 'the file became shorter while it was open', name);
        return data;
      },
    };
  },
  twice: (file, tensor, earlier) => badSafetensors(file, `it is also in ${earlier}`, tensor),
};

/** Reads and checks the header of an open file. Throws ERR_BAD_SAFETENSORS, ERR_IO. */
export async function readHeader(opened: RandomFile, signal?: AbortSignal): Promise<SafetensorsFile> {
  const { path, name, size } = opened;
  const prefix = new Uint8Array(8);
  const got = await opened.read(prefix, 0, signal);
  const json = new Uint8Array(headerLength(prefix.subarray(0, got), size, name));
  const bytes = await opened.read(json, 8, signal);
  if (bytes < json.byteLength) throw badSafetensors(name, 'the file became shorter while it was read');
  return { path, size, header: parseHeader(json, size, name) };
}
