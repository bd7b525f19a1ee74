/**
 * What a container runs: the image's words and the request's put together as docker does. Pure.
 *
 *   request has     arguments
 *   entrypoint      its entrypoint, its command; the image's command does not count
 *   command         the image's entrypoint, its command
 *   neither         the image's entrypoint, the image's command
 */
import { type Account, parseAccount } from '../account.ts';
import { RuntimeError } from '../errors.ts';
import type { ContainerRecord, ContainerSpec } from '../runtime/container.ts';
import type { ImageConfig } from './image-config.ts';

const DEFAULT_PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The arguments of the process. @throws {RuntimeError} FAILED_PRECONDITION when nobody says what to run */
export function argumentsOf(image: ImageConfig, spec: ContainerSpec): string[] {
  const entrypoint = spec.entrypoint ?? image.entrypoint;
  const useOwn = spec.command.length > 0 || spec.entrypoint !== undefined;
  const args = [...entrypoint, ...(useOwn ? spec.command : image.command)];
  if (args.length === 0) {
    throw new RuntimeError('FAILED_PRECONDITION', `image ${spec.image} has no command of its own: give one`);
  }
  return args;
}

/** The environment, each key once; the request's entries win over the image's, those over the defaults. */
export function environmentOf(image: ImageConfig, container: ContainerRecord, home: string): string[] {
  const hostname = container.spec.hostname ?? container.id.slice(0, 12);
  const defaults = [DEFAULT_PATH, `HOSTNAME=${hostname}`, `HOME=${home}`];
  const entries = [...defaults, ...image.env, ...container.spec.env];
  return [...new Map(entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry])).values()];
}

/** The account asked for; root when nobody asks. @throws {RuntimeError} INVALID_ARGUMENT */
export function accountOf(image: ImageConfig, spec: ContainerSpec): Account {
  return parseAccount('user', spec.user ?? image.user ?? '0');
}

/** The working directory, absolute; "/" when nobody says. */
export function workingDirOf(image: ImageConfig, spec: ContainerSpec): string {
  return spec.workingDir ?? image.workingDir ?? '/';
}
