/**
 * Where compiled code is kept from one start to the next: in the package's own directory, where nobody but its owner can
 * put anything. Where that cannot be written, every start compiles again. Loading is most of what a start costs.
 */
import { join } from 'node:path';
import { PACKAGE_DIR } from './package-dir.ts';

/** For enableCompileCache of node:module, or NODE_COMPILE_CACHE in the environment of a child. */
export const COMPILE_CACHE_DIR: string = join(PACKAGE_DIR, 'node_modules/.cache/berth');
