// What all adapters have in common, over every golden model: both forms of config.json, rotary frequencies, linears and their tags, names with and without
// a root, and refusals.

import { adapterFor, type HostTensor, isLowbitError, type JsonObject, linearTags, resolveRules, toFloat32 } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenModels } from '../testing/golden-models.ts';
import { type Contents, goldenContents } from '../testing/memory-checkpoint.ts';
import { alibiSlopes } from './bloom.ts';
import { defaultAdapters } from './index.ts';

const { folders, absent } = goldenModels(golden);

const describeModel = ({ config, tensors }: Contents) =>
  adapterFor(config, defaultAdapters).describe(config, { entries: tensors, read: async (name): Promise<HostTensor> => tensors.get(name)! });
const linearsOf = ({ config, tensors }: Pick<Contents, 'config' | 'tensors'>) =>
  adapterFor(config, defaultAdapters).linears(config, tensors);

describe('config.json in both forms', () => {
  test.each(folders)('%s: the same program', async (folder) => {
    expect(await describeModel(goldenContents(golden, folder, 'config.v5.json'))).toEqual(
      await describeModel(goldenContents(golden, folder)),
    );
  });
  test.each(absent)('%s: the same linears', (folder) => {
    const [old, recent] = ['config.json', 'config.v5.json'].map((name) => golden.goldenJson<JsonObject>(`models/${folder}/${name}`));
    const sites = linearsOf({ config: old!, tensors: new Map() });
    expect(linearsOf({ config: recent!, tensors: new Map() })).toEqual(sites);
    expect(sites.length).toBeGreaterThanOrEqual(8);
  });
});

describe('rotary frequencies against transformers', () => {
  const frequencies = folders.flatMap((folder) =>
    [...golden.goldenTensors(`models/${folder}/expected.safetensors`)]
      .filter(([name]) => name.endsWith('inv_freq'))
      .map(([name, tensor]) => [folder, name, toFloat32(tensor)] as const),
  );
  test('there are some of every kind', () => expect(frequencies.length).toBeGreaterThan(20));

  test.each(frequencies)('%s %s', async (folder, name, inv) => {
    const { program } = await describeModel(goldenContents(golden, folder));
    const length = golden.goldenTensors(`models/${folder}/expected.safetensors`).get('input_ids')!.shape[1]!;
    // Gemma 3 has two: of its local layers, and of the others.
    const rope = program.ropes[/sliding|local/.test(name) ? 1 : 0]!;
    if (rope.kind === 'dynamic') return; // compared in llama.test.ts
    const own = rope.kind === 'fixed' ? rope.frequencies : length > rope.original ? rope.long : rope.short;
    expect(own.length).toBe(inv.length);
    for (const [i, f] of inv.entries()) expect(Math.abs(own[i]! / f - 1)).toBeLessThan(1e-6);
  });
});

describe('linears', () => {
  const LLAMA = [
    'self_attn.q_proj',
    'self_attn.k_proj',
    'self_attn.v_proj',
    'self_attn.o_proj',
    'mlp.gate_proj',
    'mlp.up_proj',
    'mlp.down_proj',
  ];
  const NEOX = ['query_key_value', 'dense'].map((name) => `gpt_neox.attention.${name}`);
  const FOURS = ['mlp.dense_h_to_4h', 'mlp.dense_4h_to_h'];
  const EXPERTS = ['mlp.gate', ...['gate_proj', 'up_proj', 'down_proj'].map((name) => `mlp.experts.${name}`)];

  test.each<[string, readonly string[]]>([
    ['llama-gqa', [...LLAMA, 'lm_head']],
    ['mistral-sliding', [...LLAMA, 'lm_head']],
    ['qwen2-sliding', LLAMA],
    ['qwen3', LLAMA],
    ['gemma', LLAMA],
    ['gemma2', LLAMA],
    ['gemma3', LLAMA],
    ['granite', [...LLAMA, 'lm_head']],
    ['olmo2', [...LLAMA, 'lm_head']],
    ['smollm3', LLAMA],
    ['phi3-longrope', ['self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj']],
    ['phi', [...LLAMA.slice(0, 3), 'self_attn.dense', 'mlp.fc1', 'mlp.fc2', 'lm_head']],
    ['starcoder2', [...LLAMA.slice(0, 4), 'mlp.c_fc', 'mlp.c_proj']],
    [
      'mixtral-published',
      [...LLAMA.slice(0, 4), 'block_sparse_moe.gate', ...['w1', 'w3', 'w2'].map((w) => `block_sparse_moe.experts.${w}`), 'lm_head'],
    ],
    [
      'qwen2-moe',
      [
        ...LLAMA.slice(0, 4),
        ...EXPERTS,
        ...LLAMA.slice(4).map((tag) => tag.replace('.', '.shared_expert.')),
        'mlp.shared_expert_gate',
        'lm_head',
      ],
    ],
    ['qwen3-moe', [...LLAMA.slice(0, 4), ...EXPERTS, ...LLAMA.slice(4)]],
    ['gpt2', ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj'].map((tag) => `transformer.h.${tag}`)],
    ['gpt-neox', [...NEOX, ...FOURS.map((tag) => `gpt_neox.${tag}`), 'embed_out']],
    ['bloom', ['self_attention.query_key_value', 'self_attention.dense', ...FOURS].map((tag) => `h.${tag}`)],
    ['opt', [...['q_proj', 'k_proj', 'v_proj', 'out_proj'].map((name) => `decoder.self_attn.${name}`), 'decoder.fc1', 'decoder.fc2']],
    [
      'opt-postnorm',
      [
        ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].map((name) => `decoder.self_attn.${name}`),
        'decoder.fc1',
        'decoder.fc2',
        'decoder.project_in',
        'decoder.project_out',
      ],
    ],
  ])('%s', (folder, tags) => {
    const contents = goldenContents(golden, folder);
    const sites = linearsOf(contents);
    expect(linearTags(sites.map(({ path }) => path))).toEqual(tags);
    // Every matrix of a layer is a linear, but for tables of positions.
    const layered = [...contents.tensors].filter(([name, { shape }]) => shape.length === 2 && /\.\d+\./.test(name)).map(([name]) => name);
    expect(
      sites
        .filter(({ layer }) => layer >= 0)
        .map(({ path }) => `${path}.weight`)
        .sort(),
    ).toEqual(layered.sort());
    for (const { path, shape, bias, transposed } of sites) {
      const stored = contents.tensors.get(`${path}.weight`)!.shape;
      expect(transposed ? stored.toReversed() : stored, path).toEqual(shape);
      expect(contents.tensors.has(`${path}.bias`), path).toBe(bias);
    }
    for (const tag of tags) {
      const found = resolveRules(sites, [{ match: tag, use: 'keep' }], 'keep');
      expect(found.size, tag).toBe(sites.length);
    }
  });

  test.each([
    ['mixtral-published', 'block_sparse_moe.experts.*.w1', 8],
    ['mixtral-published', 'block_sparse_moe.experts.3.w2', 2],
    ['qwen2-moe', 'mlp.experts.*.{gate,up,down}_proj', 30],
    ['gpt-neox', 'attention.query_key_value', 2],
    ['gpt2', 'attn.c_attn', 2],
    ['bloom', 'self_attention.*', 4],
    ['opt', 'self_attn.*', 8],
  ])('%s: the pattern %s names %i', (folder, match, count) => {
    const { sites, matched } = matching(folder, match);
    expect(matched).toBe(count);
    expect(sites).toBeGreaterThan(count);
  });

  function matching(folder: string, match: string) {
    const sites = linearsOf(goldenContents(golden, folder));
    const mark = { method: 'mark', quantize: () => {}, format: () => {} } as never;
    const treatments = resolveRules(sites, [{ match, use: mark }], 'keep');
    return { sites: sites.length, matched: [...treatments.values()].filter((use) => use === mark).length };
  }

  test('heads and routers stay in floating point unless they are named; experts have their number', () => {
    const kept = (folder: string) => linearsOf(goldenContents(golden, folder)).flatMap(({ path, keep }) => (keep ? [path] : []));
    expect(kept('mixtral-published')).toEqual(['model.layers.0.block_sparse_moe.gate', 'model.layers.1.block_sparse_moe.gate', 'lm_head']);
    expect(kept('gpt-neox')).toEqual(['embed_out']);
    expect(kept('qwen2-moe').slice(0, 2)).toEqual(['model.layers.0.mlp.gate', 'model.layers.0.mlp.shared_expert_gate']);
    expect(kept('gemma2')).toEqual([]);
    const experts = linearsOf(goldenContents(golden, 'qwen3-moe')).filter(({ expert }) => expert !== undefined);
    expect(experts.length).toBe(2 * 6 * 3);
    for (const { path, expert } of experts) expect(path).toContain(`.experts.${expert}.`);
  });
});

describe('names with and without a root', () => {
  test.each([
    ['gpt2', 'transformer.'],
    ['opt', 'model.'],
  ])('%s without %s', async (folder, root) => {
    const contents = goldenContents(golden, folder);
    const bare = new Map([...contents.tensors].map(([name, tensor]) => [name.replace(root, ''), tensor]));
    const { program } = await describeModel({ ...contents, tensors: bare });
    const own = (await describeModel(contents)).program;
    expect({ ...program, linears: [] }).toEqual({ ...own, linears: [] });
    expect(program.linears.map(({ path }) => `${root}${path}`)).toEqual(own.linears.map(({ path }) => path));
  });
  test('bloom with transformer.', async () => {
    const contents = goldenContents(golden, 'bloom');
    const rooted = new Map([...contents.tensors].map(([name, tensor]) => [`transformer.${name}`, tensor]));
    expect((await describeModel({ ...contents, tensors: rooted })).program.ops).toEqual((await describeModel(contents)).program.ops);
  });
});

test('slopes of ALiBi: those of a power of two, and every second one of the next for further heads', () => {
  expect(alibiSlopes(8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i));
  expect(alibiSlopes(1)).toEqual([2 ** -8]);
  expect(alibiSlopes(6)).toEqual([2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8, 2 ** -1, 2 ** -3]);
  expect(alibiSlopes(112).length).toBe(112);
  expect(new Set(alibiSlopes(112)).size).toBe(112);
});

describe('refusals', () => {
  const REFUSALS = ['ERR_BAD_CHECKPOINT', 'ERR_UNSUPPORTED_ARCH', 'ERR_TENSOR_MISMATCH'] as const;

  test.each<[string, string, string, JsonObject]>([
    ['ERR_UNSUPPORTED_ARCH', 'use_bidirectional_attention', 'gemma3', { use_bidirectional_attention: true }],
    ['ERR_UNSUPPORTED_ARCH', 'add_cross_attention', 'gpt2', { add_cross_attention: true }],
    ['ERR_UNSUPPORTED_ARCH', 'apply_residual', 'bloom', { apply_residual_connection_post_layernorm: true }],
    ['ERR_UNSUPPORTED_ARCH', 'layer_norm_elementwise_affine', 'opt', { layer_norm_elementwise_affine: false }],
    ['ERR_UNSUPPORTED_ARCH', 'rope_type', 'phi3-longrope', { rope_scaling: { type: 'longer' } }],
    ['ERR_UNSUPPORTED_ARCH', 'rope_type', 'gemma3', { rope_scaling: { rope_type: 'longrope' } }],
    ['ERR_BAD_CHECKPOINT', 'short_factor', 'phi3-longrope', { rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [1] } }],
    ['ERR_BAD_CHECKPOINT', 'long_factor', 'phi3-longrope', { rope_scaling: { type: 'longrope', short_factor: Array(12).fill(1) } }],
    [
      'ERR_BAD_CHECKPOINT',
      'long_factor[3]',
      'phi3-longrope',
      { rope_scaling: { type: 'su', short_factor: Array(12).fill(1), long_factor: [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1] } },
    ],
    ['ERR_BAD_CHECKPOINT', 'num_local_experts', 'mixtral-published', { num_local_experts: 4096, num_hidden_layers: 4096 }],
    ['ERR_BAD_CHECKPOINT', 'num_experts_per_tok', 'mixtral-published', { num_experts_per_tok: 5 }],
    ['ERR_BAD_CHECKPOINT', 'mlp_only_layers', 'qwen3-moe', { mlp_only_layers: [0, 1, 2, 3] }],
    ['ERR_BAD_CHECKPOINT', 'mlp_only_layers[0]', 'qwen3-moe', { mlp_only_layers: ['1'] }],
    ['ERR_BAD_CHECKPOINT', 'layer_types', 'gemma2', { layer_types: ['full_attention'] }],
    ['ERR_BAD_CHECKPOINT', 'layer_types[2]', 'gemma2', { layer_types: ['full_attention', 'full_attention', 'chunked_attention'] }],
    ['ERR_BAD_CHECKPOINT', 'no_rope_layers[1]', 'smollm3', { no_rope_layers: [1, 2, 1] }],
    ['ERR_BAD_CHECKPOINT', 'sliding_window', 'mistral-sliding', { sliding_window: 0 }],
    ['ERR_BAD_CHECKPOINT', 'attn_logit_softcapping', 'gemma2', { attn_logit_softcapping: -1 }],
    ['ERR_BAD_CHECKPOINT', 'query_pre_attn_scalar', 'gemma2', { query_pre_attn_scalar: 0 }],
    ['ERR_BAD_CHECKPOINT', 'logits_scaling', 'granite', { logits_scaling: 1e12 }],
    ['ERR_BAD_CHECKPOINT', 'rotary_pct', 'gpt-neox', { rotary_pct: Number.NaN, partial_rotary_factor: Number.NaN }],
    ['ERR_BAD_CHECKPOINT', 'n_head', 'bloom', { n_head: 7 }],
    ['ERR_BAD_CHECKPOINT', 'n_positions', 'gpt2', { n_positions: 1e12 }],
  ])('%s: %s of %s', (code, key, folder, change) => {
    const { config, tensors } = goldenContents(golden, folder);
    const named = key === 'rotary_pct' ? 'partial_rotary_factor' : key;
    expect(() => linearsOf({ config: { ...config, ...change }, tensors })).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(named), hint: expect.any(String) }),
    );
  });

  test.each<[string, JsonObject, string]>([
    ['gemma', { vocab_size: 305 }, 'model.embed_tokens.weight has shape [304, 80], expected [305, 80]'],
    ['gpt2', { n_positions: 64 }, 'transformer.wpe.weight has shape [80, 64], expected [64, 64]'],
    ['mixtral-published', { num_local_experts: 5 }, 'block_sparse_moe.experts.4.w1.weight'],
    ['qwen3', { attention_bias: true }, 'q_proj.bias is missing'],
    ['qwen2-sliding', { model_type: 'llama' }, 'self_attn.q_proj.bias'],
    ['qwen3', { model_type: 'qwen2' }, 'q_proj.bias is missing'],
    ['phi', { qk_layernorm: true }, 'self_attn.q_layernorm.weight is missing, expected [16]'],
    ['gemma3', { model_type: 'gemma2' }, 'q_norm.weight'],
    ['starcoder2', { use_bias: false }, 'self_attn.q_proj.bias'],
    ['opt', { num_hidden_layers: 1 }, 'model.decoder.layers.1.'],
    ['bloom', { n_layer: 1 }, 'h.1.'],
  ])('tensors that do not fit: %s with %j', async (folder, change, message) => {
    const contents = goldenContents(golden, folder);
    await expect(describeModel({ ...contents, config: { ...contents.config, ...change } })).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      message: expect.stringContaining(message),
      hint: expect.any(String),
    });
  });

  test('tensors that nothing reads are listed, but those that old files carry along', async () => {
    const contents = goldenContents(golden, 'gpt-neox');
    const more = (name: string): Contents => ({
      ...contents,
      tensors: new Map([...contents.tensors, [name, contents.tensors.get('embed_out.weight')!]]),
    });
    for (const name of ['bias', 'masked_bias', 'rotary_emb.inv_freq']) await describeModel(more(`gpt_neox.layers.1.attention.${name}`));
    await expect(describeModel(more('score.weight'))).rejects.toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      message: expect.stringContaining('score.weight'),
      details: { tensors: ['score.weight'] },
    });
  });

  /** What a hostile or a broken file may hold. */
  const value = fc.oneof(
    fc.constantFrom<unknown>(null, true, false, '', 'silu', 'longrope', [], {}, [[]], Number.NaN, Number.POSITIVE_INFINITY),
    fc.constantFrom(0, -1, 1, 2, 3, 0.5, 64, 4096, 2 ** 20, 2 ** 31, 1e12, -1e12, 1e300, Number.MIN_VALUE),
    fc.array(fc.constantFrom<unknown>(0, 1, 1.5, 'full_attention', null), { maxLength: 4 }),
    fc.dictionary(
      fc.constantFrom('rope_type', 'type', 'factor', 'rope_theta', 'full_attention', 'partial_rotary_factor'),
      fc.constantFrom<unknown>('yarn', 'linear', 1e9, -1, null, {}),
    ),
  );

  test.each([...new Map(folders.map((folder) => [goldenContents(golden, folder).config.model_type, folder])).values()])(
    'any config.json: %s gives its linears or a typed error',
    (folder) => {
      const { config, tensors } = goldenContents(golden, folder);
      const keys = [
        ...new Set([
          ...Object.keys(config),
          'rope_scaling',
          'rope_parameters',
          'layer_types',
          'sliding_window',
          'use_sliding_window',
          'tie_word_embeddings',
        ]),
      ];
      const changes = fc.dictionary(fc.constantFrom(...keys.filter((key) => key !== 'model_type')), value, { minKeys: 1, maxKeys: 3 });
      fc.assert(
        fc.property(changes, (change) => {
          try {
            const sites = linearsOf({ config: { ...config, ...(change as JsonObject) }, tensors });
            for (const { shape } of sites) expect(shape.every((extent) => Number.isInteger(extent) && extent >= 1)).toBe(true);
          } catch (error) {
            if (!isLowbitError(error)) throw error;
            expect(REFUSALS).toContain(error.code);
            expect(error.hint).toBeTypeOf('string');
          }
        }),
        { numRuns: 60 },
      );
    },
  );
});
