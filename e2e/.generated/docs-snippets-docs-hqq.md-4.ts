import { HqqLinear, hqq, prepareForInference } from '@lowbit/hqq';

{
  declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

  {
    using q = await HqqLinear.create({ weight }, hqq(), { runtime });
    const layers = new Map([['model.layers.0.self_attn.q_proj', q]]); // or any [path, layer] pairs
    await prepareForInference(layers, { backend: 'PYTORCH' });
  }
}
