// Vision transformers under the names of timm: the plain ViT, and the image towers of CLIP that are published in this form. Its config.json says little,
// so sizes come from the tensors. After timm's vision_transformer.py.

import { type Activation, type Entries, type JsonObject, LowbitError, type ModelAdapter, type Shape } from '@lowbit/core';
import { badConfig, given, readInteger, readObject } from '../config.ts';
import type { DecoderLayer, LinearSpec } from '../decoder/spec.ts';
import { towerSites } from '../tower/modules.ts';
import type { TowerSpec } from '../tower/spec.ts';
import { checkImage, describeTower, refuseLayers, towerLayer } from './clip.ts';
import { COUNT, dividedHeads, kept, layerNorm, linear, SIZE, unsupported } from './common.ts';

/** Architectures whose heads are not 64 wide, and how many they have. */
const WIDE = /^vit_(?:huge|giant|gigantic|so\d+m)_/;
const WIDE_HEADS = 16;

/** The shape of a tensor; throws ERR_TENSOR_MISMATCH where it is missing or has another number of axes. */
function shapeOf(entries: Entries, name: string, axes: number): Shape {
  const shape = entries.get(name)?.shape;
  if (shape?.length === axes) return shape;
  const found = shape ? `is [${shape.join(', ')}]` : 'is missing';
  throw new LowbitError('ERR_TENSOR_MISMATCH', `${name} ${found}, expected ${axes} axes`, {
    hint: 'Only vision transformers (vit_*) with a class token are supported of timm.',
    details: { tensor: name, found: shape ?? null },
  });
}

function timmSpec(config: JsonObject, entries: Entries): TowerSpec {
  const { architecture } = config;
  const name = typeof architecture === 'string' ? architecture : '';
  if (!/^vit_/.test(name)) throw unsupported('architecture', architecture, 'vit_*');
  const args = readObject(config, 'model_args') ?? {};
  // One place or the other says how rows become one: only the class token is what rows can be taken of.
  const pool = given(args, 'global_pool') ?? given(config, 'global_pool') ?? 'token';
  if (pool !== 'token') throw unsupported('global_pool', pool, 'token');
  const [hidden, channels, patch] = shapeOf(entries, 'patch_embed.proj.weight', 4) as [number, number, number];
  const places = shapeOf(entries, 'pos_embed', 3)[1]!;
  shapeOf(entries, 'cls_token', 3);
  const width = shapeOf(entries, 'blocks.0.mlp.fc1.weight', 2)[0]!;
  for (const [what, value] of Object.entries({ hidden, channels, patch, width, places })) {
    if (value < 1 || value > SIZE.max) throw badConfig(`the tensors' ${what}`, value, `1 to ${SIZE.max}`);
  }
  const side = Math.round(Math.sqrt(places - 1)) * patch;
  const image = { channels, height: side, width: side, patch };
  if ((side / patch) ** 2 !== places - 1) throw unsupported('pos_embed', places, 'positions of a square image and one class token');
  checkImage('the image', image);
  const heads = given(args, 'num_heads') === undefined ? headsOf(name, hidden) : readInteger(args, 'num_heads', COUNT);
  dividedHeads(hidden, heads, ['model_args.num_heads', 'the hidden size']);
  const clip = /_clip_/.test(name);
  const eps = clip ? 1e-5 : 1e-6;
  const activation: Activation = /_quickgelu_/.test(name) ? 'quick_gelu' : 'gelu';
  const blocks = new Set([...entries.keys()].flatMap((tensor) => /^blocks\.(\d+)\./.exec(tensor)?.[1] ?? []));
  if (blocks.size > COUNT.max) throw badConfig('the number of blocks', blocks.size, `at most ${COUNT.max}`);
  const bias = (path: string): boolean => entries.has(`${path}.bias`);
  const module = (path: string, out: number, inp: number): LinearSpec => linear(path, out, inp, { bias: bias(path) });
  const block = (index: number): DecoderLayer => {
    const at = `blocks.${index}`;
    return towerLayer(
      [`${at}.norm1`, `${at}.norm2`],
      {
        qkv: { kind: 'fused', qkv: module(`${at}.attn.qkv`, 3 * hidden, hidden), order: 'blocks' },
        o: module(`${at}.attn.proj`, hidden, hidden),
        up: module(`${at}.mlp.fc1`, width, hidden),
        down: module(`${at}.mlp.fc2`, hidden, width),
      },
      { hidden, width, heads, eps, activation },
    );
  };
  const head = entries.get('head.weight') && kept(module('head', shapeOf(entries, 'head.weight', 2)[0]!, hidden));
  return {
    image,
    hidden,
    patches: { path: 'patch_embed.proj', bias: bias('patch_embed.proj') },
    classToken: { tensor: 'cls_token', shape: [1, 1, hidden] },
    positions: { tensor: 'pos_embed', shape: [1, places, hidden] },
    ...(entries.has('norm_pre.weight') && { norm: layerNorm('norm_pre', hidden, eps) }),
    layers: Array.from({ length: blocks.size }, (_, index) => block(index)),
    unused: [],
    output: { kind: 'timm', norm: layerNorm('norm', hidden, eps), ...(head && { head }) },
  };
}

function headsOf(name: string, hidden: number): number {
  if (WIDE.test(name)) return WIDE_HEADS;
  if (hidden % 64 === 0) return hidden / 64;
  throw badConfig('model_args.num_heads', undefined, `the number of heads, as ${hidden} is no multiple of 64`);
}

/** Vision transformers of timm, those of CLIP among them: no `model_type`, and an `architecture` that begins with vit_. The head stays in floating point. */
export const timm: ModelAdapter = {
  spec: 1,
  modelTypes: ['timm'],
  linears(config, entries) {
    const spec = timmSpec(config, entries);
    refuseLayers(spec, entries);
    return towerSites(spec);
  },
  describe: (config, options) => describeTower(timmSpec(config, options.entries), options),
};
