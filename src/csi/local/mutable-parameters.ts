/** Parameters of a volume that may be changed later: those of ControllerModifyVolume, and of CreateVolume beside others. */
import { invalid } from '../../errors.ts';
import { checkMap, type StringMap } from '../protocol.ts';
import { ALLOCATIONS, type Allocation } from './volume-record.ts';

export interface MutableParameters {
  readonly allocation: Allocation | undefined;
}

/** @throws {RuntimeError} INVALID_ARGUMENT naming the key or the value */
export function parseMutableParameters(parameters: StringMap): MutableParameters {
  checkMap('mutable_parameters', parameters);
  const { allocation: wanted, ...others } = parameters;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined) {
    throw invalid('mutable_parameters', `${JSON.stringify(unknown)} is not known: there is allocation`);
  }
  if (wanted === undefined) return { allocation: undefined };
  const allocation = ALLOCATIONS.find((one) => one === wanted);
  if (allocation !== undefined) return { allocation };
  throw invalid('mutable_parameters.allocation', `${JSON.stringify(wanted)} is none of ${ALLOCATIONS.join(', ')}`);
}
