import { quantize } from '@lowbit/core';
import { baseQuantizeConfig } from '@lowbit/hqq';

{
declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

await quantize(weight, baseQuantizeConfig({ nbits: 4, group_size: 64, axis: 1 })); // a quantizer like hqq()'s
await quantize(weight, baseQuantizeConfig({ weight_quant_params: { nbits: 2, group_size: 16, axis: 0 }, scale_quant_params: null })); // its dictionary}
