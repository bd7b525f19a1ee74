/** Checks of what names a volume or a place in a request, before anything is done with it. */
import { realpath } from 'node:fs/promises';
import { posix } from 'node:path';
import { invalid, RuntimeError, systemCode } from '../../errors.ts';
import { checkText } from '../protocol.ts';

const MAX_PATH_BYTES = 4095;

/** @throws {RuntimeError} INVALID_ARGUMENT when the id is missing or longer than CSI allows; any other text is merely unknown */
export function checkVolumeId(id: string): string {
  if (id === '') throw invalid('volume_id', 'is missing');
  return checkText('volume_id', id);
}

/** As {@link resolvePath}. A path that cannot be one of a volume is merely one where no volume is. */
export async function livePath(path: string): Promise<string | undefined> {
  try {
    return await resolvePath('volume_path', path);
  } catch (error) {
    if (error instanceof RuntimeError && error.code === 'INVALID_ARGUMENT') return undefined;
    throw error;
  }
}

/**
 * The path as the kernel's mount list names it: its parent without symbolic links. The last part is kept as it is, it
 * may not exist. Undefined when the parent does not exist.
 * @throws {RuntimeError} INVALID_ARGUMENT naming the field when the path is missing, relative, not normal or "/"
 */
export async function resolvePath(field: string, path: string): Promise<string | undefined> {
  if (path === '') throw invalid(field, 'is missing');
  checkText(field, path, MAX_PATH_BYTES);
  if (!path.startsWith('/') || path.includes('\0')) throw invalid(field, 'is not an absolute path');
  if (posix.normalize(path) !== path || path.endsWith('/')) throw invalid(field, 'is not a normal path below /');
  try {
    return posix.join(await realpath(posix.dirname(path)), posix.basename(path));
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return undefined;
    throw RuntimeError.from(error, `${field}: resolve ${path}`);
  }
}
