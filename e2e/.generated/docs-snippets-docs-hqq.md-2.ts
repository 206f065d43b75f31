import { hqq, hqqConfig } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';

{
  declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

  {
    await using source = await openCheckpoint('examples/tiny-llama');
    await quantizeCheckpoint(source, {
      out: 'uniform',
      adapters: [llama],
      ...hqqConfig({ nbits: 4, skip_modules: ['lm_head', 'layers.0.'] }),
    });

    const perTag = hqqConfig({
      dynamic_config: {
        'self_attn.v_proj': hqq({ bits: 4, solver: 'least-squares' }), // a quantizer
        'mlp.*': { nbits: 2, group_size: 16, axis: 0 }, // or Python's arguments, with the helper's defaults; null keeps a layer
      },
    });
    await quantizeCheckpoint(source, { out: 'per-tag', adapters: [llama], ...perTag });
  }
}
