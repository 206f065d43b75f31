// What follows from a tower's modules alone: its linear layers and its tensors.

import type { LinearSite, Shape } from '@lowbit/core';
import { layerLinears, layerNorms, mlpLinears, type Needed, siteOf, tensorList } from '../decoder/modules.ts';
import type { LinearSpec, NormSpec } from '../decoder/spec.ts';
import type { TowerOutput, TowerSpec } from './spec.ts';

function outerLinears(output: TowerOutput): readonly LinearSpec[] {
  if (output.kind === 'features') return mlpLinears(output.projector);
  const last = output.kind === 'clip' ? output.project : output.head;
  return last ? [last] : [];
}

/** Every linear layer as a site; the convolution over patches is none. */
export function towerSites({ layers, unused, output }: TowerSpec): LinearSite[] {
  return [...[...layers, ...unused].flatMap((layer, i) => layerLinears(layer).map(siteOf(i))), ...outerLinears(output).map(siteOf(-1))];
}

/** Name and shape of every tensor that the tower reads, or has for layers that nothing needs. */
export function towerTensors(spec: TowerSpec): Needed {
  const { image, hidden, patches, classToken, positions, output } = spec;
  const layers = [...spec.layers, ...spec.unused];
  const norms: (NormSpec | undefined)[] = [spec.norm, output.kind === 'features' ? undefined : output.norm];
  const { tensors, linears } = tensorList({
    linears: [...layers.flatMap(layerLinears), ...outerLinears(output)],
    norms: [...layers.flatMap(layerNorms), ...norms.filter((norm) => norm !== undefined)],
    tables: [],
  });
  const own: [string, Shape][] = [
    [`${patches.path}.weight`, [hidden, image.channels, image.patch, image.patch]],
    [positions.tensor, positions.shape],
  ];
  if (patches.bias) own.push([`${patches.path}.bias`, [hidden]]);
  if (classToken) own.push([classToken.tensor, classToken.shape]);
  return { tensors: new Map([...tensors, ...own]), linears };
}
