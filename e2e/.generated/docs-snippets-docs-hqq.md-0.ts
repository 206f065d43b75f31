import { createRuntime, referenceBackend } from '@lowbit/core';
import { HqqLinear, hqq } from '@lowbit/hqq';

{
  declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

  {
    await using runtime = await createRuntime({ backends: [referenceBackend()] });
    using layer = await HqqLinear.create({ weight, bias }, hqq({ bits: 4, groupSize: 64 }), { runtime, computeDtype: 'bf16' });

    const y = await layer.apply(x); // x: f32, f16 or bf16 [..., in] -> bf16 [..., out]
    await layer.dequantize(); // bf16 [out, in], every operation rounded to bf16
    layer.unpack(); // codes, u8 [T/64, 64]; { reshape: true }: [out, in]

    const state = layer.stateDict(); // the 19 tensors of Python's encoded form, and bias
    using again = await HqqLinear.fromStateDict(state, { runtime });
  }
}
