/** `--parameter KEY=value`: what is handed to a plugin as it is. */
import { usage } from './failure.ts';

/** @throws {Failure} naming the flag */
export function parseParameter(text: string, flag: string = '--parameter'): { key: string; value: string } {
  const split = text.indexOf('=');
  if (split < 1) throw usage(flag, `${JSON.stringify(text)} must be KEY=value`);
  return { key: text.slice(0, split), value: text.slice(split + 1) };
}
