import { higgs } from '@lowbit/higgs';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';

{
  declare const weight: HostTensor, bias: HostTensor, x: HostTensor, runtime: Runtime, model: LanguageModel;

  {
    await using source = await openCheckpoint('examples/tiny-llama');
    const report = await quantizeCheckpoint(source, {
      out: 'tiny-llama-higgs4',
      quantizer: higgs({ bits: 4, hadamardSize: 256 }), // 256 divides every in_features of this model
      adapters: [llama],
    });
    console.log(report.weightError, report.loadsIn); // about 0.0078
  }
}
