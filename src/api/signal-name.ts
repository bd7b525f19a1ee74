/** Signals as people write them: "SIGTERM", "TERM", "term", "15". */
import { constants } from 'node:os';
import { invalid } from '../errors.ts';

const NAMES: ReadonlyMap<string, NodeJS.Signals> = new Map(
  Object.entries(constants.signals).flatMap(([name, number]): [string, NodeJS.Signals][] =>
    isSignal(name)
      ? [
          [name, name],
          [name.slice('SIG'.length), name],
          [String(number), name],
        ]
      : [],
  ),
);

/** The signal's name. @throws {RuntimeError} INVALID_ARGUMENT for what is none */
export function signalNameOf(text: string): NodeJS.Signals {
  const name = NAMES.get(text.toUpperCase());
  if (name === undefined) {
    throw invalid('signal', `${JSON.stringify(text.slice(0, 32))} is no signal: say a name such as TERM, or a number`);
  }
  return name;
}

function isSignal(name: string): name is NodeJS.Signals {
  return name in constants.signals;
}
