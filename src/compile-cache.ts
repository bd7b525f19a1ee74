/**
 * Where compiled code is kept from one start to the next: in the package's own directory, where nobody but its owner can
 * put anything. Where that cannot be written, every start compiles again. Loading is most of what a start costs.
 */
import { fileURLToPath } from 'node:url';

/** For enableCompileCache of node:module, or NODE_COMPILE_CACHE in the environment of a child. */
export const COMPILE_CACHE_DIR: string = fileURLToPath(new URL('../node_modules/.cache/berth', import.meta.url));
