import { patchLinears } from '@lowbit/core';
import { hqqConfig } from '@lowbit/hqq';

{
declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

await patchLinears(model, hqqConfig({ nbits: 4 }).rules, { runtime }); // model: a LinearHost, such as a LanguageModel}
