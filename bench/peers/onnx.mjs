// Writes an ONNX model of `layers` MatMulNBits nodes [size, size], 4 bits in blocks of 64 with zero points, one after another. Speed does not depend on the values.

import { writeFileSync } from 'node:fs';

const varint = (value) => {
  const bytes = [];
  let left = BigInt(value);
  for (;;) {
    const low = Number(left & 127n);
    left >>= 7n;
    if (left === 0n) return Buffer.from([...bytes, low]);
    bytes.push(low | 128);
  }
};
const tag = (field, wire) => varint((field << 3) | wire);
const nested = (field, bytes) => Buffer.concat([tag(field, 2), varint(bytes.length), bytes]);
const string = (field, value) => nested(field, Buffer.from(value));
const number = (field, value) => Buffer.concat([tag(field, 0), varint(value)]);
const tensor = (name, dtype, dims, data) =>
  nested(5, Buffer.concat([...dims.map((dim) => number(1, dim)), number(2, dtype), string(8, name), nested(9, data)]));
const [FLOAT, UINT8] = [1, 2];

export function writeOnnx(path, { layers, accuracy, size = 4096 }) {
  const block = 64;
  const groups = size / block;
  const parts = [];
  let seed = 1;
  const random = (count) => {
    const bytes = Buffer.alloc(count);
    for (let i = 0; i < count; i++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      bytes[i] = seed >>> 24;
    }
    return bytes;
  };
  const scales = Buffer.from(new Float32Array(size * groups).fill(0.15 / Math.sqrt(size)).buffer);
  let before = 'X';
  for (let layer = 0; layer < layers; layer++) {
    const after = layer === layers - 1 ? 'Y' : `h${layer}`;
    parts.push(tensor(`q${layer}`, UINT8, [size, groups, block / 2], random((size * size) / 2)));
    parts.push(tensor(`s${layer}`, FLOAT, [size * groups], scales));
    parts.push(tensor(`z${layer}`, UINT8, [(size * groups) / 2], random((size * groups) / 2)));
    const attributes = Object.entries({ K: size, N: size, bits: 4, block_size: block, accuracy_level: accuracy });
    parts.push(
      nested(
        1,
        Buffer.concat([
          ...[before, `q${layer}`, `s${layer}`, `z${layer}`].map((name) => string(1, name)),
          string(2, after),
          string(3, `n${layer}`),
          string(4, 'MatMulNBits'),
          ...attributes.map(([name, value]) => nested(5, Buffer.concat([string(1, name), number(3, value), number(20, 2)]))),
          string(7, 'com.microsoft'),
        ]),
      ),
    );
    before = after;
  }
  const dims = Buffer.concat([nested(1, string(2, 'M')), nested(1, number(1, size))]);
  const value = (name) => Buffer.concat([string(1, name), nested(2, nested(1, Buffer.concat([number(1, FLOAT), nested(2, dims)])))]);
  const graph = Buffer.concat([...parts, string(2, 'g'), nested(11, value('X')), nested(12, value('Y'))]);
  const opset = (domain, version) => nested(8, Buffer.concat([string(1, domain), number(2, version)]));
  writeFileSync(path, Buffer.concat([number(1, 8), opset('', 18), opset('com.microsoft', 1), nested(7, graph)]));
}
